"""Shared fixtures: a tiny random language model with a real tokenizer, a tiny study over local text, hermetic environment."""

import json
import os
from collections.abc import Callable
from pathlib import Path

# Before torch or tokenizers start their pools: tests are tiny, and several of them may share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from filelock import FileLock

from sae_pipeline.study import Study, parse_study

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOPICS = {
    "harbour": [
        "ship",
        "harbour",
        "island",
        "coast",
        "sailor",
        "anchor",
        "tide",
        "boat",
        "fishing",
        "storm",
        "lighthouse",
        "rope",
    ],
    "kitchen": ["bread", "oven", "butter", "flour", "sugar", "salt", "kitchen", "spoon", "cake", "recipe", "dough", "honey"],
    "garden": ["flower", "garden", "soil", "seed", "tree", "leaf", "root", "rain", "bee", "spring", "branch", "blossom"],
    "court": ["judge", "court", "law", "trial", "witness", "verdict", "lawyer", "crime", "prison", "appeal", "jury", "sentence"],
}
JOINS = ["the", "a", "of", "and", "in", "with", "from", "under", "near", "behind"]


def tiny_documents(n_documents: int, seed: int, n_words: int = 60) -> list[str]:
    """Deterministic text with topics: each document speaks of one topic, so that some tokens predict others."""
    generator = np.random.default_rng(seed)
    documents = []
    for i in range(n_documents):
        words = list(TOPICS.values())[i % len(TOPICS)]
        text = [generator.choice(words) if j % 2 else generator.choice(JOINS) for j in range(n_words)]
        documents.append(f"Story {seed}-{i}. " + " ".join(text) + ".")
    return documents


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """A folder that one of the processes that share the tests (pytest-xdist) fills, and the others wait for."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    filled = folder.with_name(f"{folder.name}.filled")
    with FileLock(f"{folder}.lock"):
        if not filled.exists():
            folder.mkdir()
            fill(folder)
            filled.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two local corpora, one JSON object per line: `stories.jsonl` and `notes.jsonl` (columns text, title)."""
    return shared_folder(tmp_path_factory, "texts", write_texts)


def write_texts(folder: Path) -> None:
    """The corpora of `tiny_text_folder`."""
    for name, n_documents, seed in (("stories", 48, 0), ("notes", 32, 1)):
        rows = [json.dumps({"text": text, "title": f"{name} {i}"}) for i, text in enumerate(tiny_documents(n_documents, seed))]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 3-block Llama (32 dimensions, MLP of 64) and a byte-level BPE tokenizer with BOS, EOS and a chat template."""
    return shared_folder(tmp_path_factory, "tiny_model", write_model)


def write_model(folder: Path) -> None:
    """The model of `tiny_model_folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(tiny_documents(64, seed=7), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)

    bos, eos = bpe.token_to_id("<s>"), bpe.token_to_id("</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=bos, eos_token_id=eos, pad_token_id=eos,
        initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # Own generator: the weights depend on nothing that ran before.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    model.save_pretrained(folder)


# As little of every part of the survey as still goes through all of its code.
TINY_SURVEY = {
    "feature_families": {"epochs": 1, "min_activations": 2, "min_cosine": 0.2, "min_parent_given_child": 0.2},
    "neighbourhood_checks": {"n_anchors": 12},
    "null_models": {"n_seeds": 1, "epochs": 4, "n_scored": 4, "synthetic_steps": 4},
    "scaling_laws": {
        "sizes": [16, 32, 64, 128],
        "steps": [8, 16, 32, 64],
        "batch": 32,
        "matched_size": 32,
        "n_proxy_features": 4,
    },
}


def tiny_study_mapping(model_folder: Path, text_folder: Path, name: str = "tiny") -> dict:
    """The tiny study as plain YAML-able values; change what a test needs, then `parse_study` it."""
    return {
        "name": name,
        "model": {"source": "folder", "path": str(model_folder), "dtype": "float32"},
        "hook": {"site": "residual", "after_block": 1},
        "corpus": {
            "context": 32, "held_out": 0.25, "max_tokens_per_document": 400,
            "sources": [
                {"kind": "local", "path": str(text_folder / f"{source}.jsonl"), "format": "jsonl", "tokens": n_tokens}
                for source, n_tokens in (("stories", 4000), ("notes", 2500))
            ],
        },
        "activations": {"dtype": "float32", "mask_norm_above_median": 3.0, "max_masked_fraction": 0.2, "n_neurons": 16},
        "sae": {"architecture": "batch_topk", "k": 8, "sizes": [32, 64], "epochs": 2, "batch": 128, "learning_rate": 3.0e-3},
        "random_model": {"n_tokens": 3000, "epochs": 3},
        "metrics": {"splice_tokens": 512},
        "features": {"n_top": 6, "n_per_interval": 2, "window": 6},
        "score": {"n_features": 6, "examples_per_interval": 1, "n_controls": 4},
        "steer": {"n_features": {"other": 2}, "factors": [0, 1, 2], "max_new_tokens": 6, "n_prompts": 4, "samples_per_prompt": 1},
        "survey": TINY_SURVEY,
    }  # fmt: skip


@pytest.fixture(scope="session")
def tiny_study(tiny_model_folder: Path, tiny_text_folder: Path) -> Study:
    """Two sizes (32 and 64 features) on the tiny model, a few thousand tokens of local text."""
    return parse_study(tiny_study_mapping(tiny_model_folder, tiny_text_folder))


class FinishedStudy:
    """A study run by the command line in a folder of its own. `folder` holds study.yaml and data/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "study.yaml"
        self.exit_code, self.output, self.errors = 0, "", ""

    @property
    def store(self):
        """The artefact store of the study."""
        from sae_pipeline.store import ArtifactStore
        from sae_pipeline.study import load_study

        return ArtifactStore(load_study(self.file), self.folder / "data", self.file)

    @property
    def home(self) -> Path:
        """DAGSTER_HOME of the study."""
        return self.store.root / ".dagster"

    def at(self, folder: Path) -> "FinishedStudy":
        """The same study in another folder (a copy)."""
        return FinishedStudy(folder)

    def command(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """Run `sae-pipeline COMMAND` there, in this process: (exit code, standard output, standard error)."""
        import contextlib
        import io

        from sae_pipeline.__main__ import main

        out, err = io.StringIO(), io.StringIO()
        before = os.environ.get("DAGSTER_HOME")
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main([command, "--study", str(self.file), *arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        else:
            code = 0
        finally:
            if before is None:
                os.environ.pop("DAGSTER_HOME", None)
            else:
                os.environ["DAGSTER_HOME"] = before
        return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, tiny_text_folder: Path) -> FinishedStudy:
    """The tiny study, run once per session by `sae-pipeline run`. Read it, never change it: copy `folder` for that."""
    import yaml

    def run(folder: Path) -> None:
        study = FinishedStudy(folder)
        study.file.write_text(yaml.safe_dump(tiny_study_mapping(tiny_model_folder, tiny_text_folder)), encoding="utf-8")
        (folder / "said.json").write_text(json.dumps(study.command("run")), encoding="utf-8")

    study = FinishedStudy(shared_folder(tmp_path_factory, "finished", run))
    study.exit_code, study.output, study.errors = json.loads((study.folder / "said.json").read_text(encoding="utf-8"))
    return study
