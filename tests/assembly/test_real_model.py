"""The embedded model and texts, from raw text to steering evals by the command line, with a budget of seconds."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml

from resources.language_model import unload
from sae_pipeline.activations.reader import KEEP, ActivationReader
from tests.conftest import FinishedStudy

CONTEXT, SIZES = 64, [64, 128]


def smallest_study() -> dict:
    demo = yaml.safe_load(Path("studies/demo.yaml").read_text(encoding="utf-8"))
    return demo | {
        "name": "embedded",
        "corpus": {
            "context": CONTEXT, "held_out": 0.25, "max_tokens_per_document": 300,
            "sources": [
                {"kind": "builtin", "name": "world_factbook", "tokens": 4000},
                {"kind": "builtin", "name": "dialogues", "tokens": 2000},
            ],
        },
        "activations": demo["activations"] | {"max_masked_fraction": 0.1, "n_neurons": 8},
        "sae": demo["sae"] | {"sizes": SIZES, "k": 16, "epochs": 20, "batch": 512, "learning_rate": 1.0e-3},
        "metrics": {"splice_tokens": 256},
        "score": {"method": "proxy", "n_features": 8, "examples_per_interval": 1, "n_controls": 4},
        "steer": {
            "n_features": {"other": 1}, "factors": [0, 2], "max_new_tokens": 6, "n_prompts": 4, "samples_per_prompt": 1,
            "choose_samples": 2, "dose_samples": 1, "n_controls": 1,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    study = FinishedStudy(tmp_path_factory.mktemp("embedded"))
    study.file.write_text(yaml.safe_dump(smallest_study()), encoding="utf-8")
    study.exit_code, study.output, study.errors = study.command("run", "--device", "cpu")
    yield study
    unload()


@pytest.fixture(scope="module")
def database(embedded):
    assert embedded.exit_code == 0, embedded.errors
    with duckdb.connect(str(embedded.store.root / "analysis.duckdb"), read_only=True) as connection:
        yield connection


def test_every_stage_of_both_sizes_ends_in_the_database(embedded, database):
    assert embedded.output.count(" built in ") == 3 + 6 * 2 + 3
    stages = database.execute("select stage, count(*) from lineage group by stage").fetchall()
    assert dict(stages) == {"corpus": 1, "activations": 1, "random_model": 1} | dict.fromkeys(
        ("sae", "sae_metrics", "feature_stats", "explanations", "specificity_scores", "steering_evals"), 2
    )


def test_training_on_real_activations_beats_ablation_on_held_out_text(database):
    rows = database.sql("select * from sae_metrics order by size").pl()
    assert rows["size"].to_list() == SIZES
    assert rows["explained_variance"][1] > rows["explained_variance"][0] > 0.3
    for row in rows.iter_rows(named=True):
        assert 12 < row["l0"] < 20 and row["alive_fraction"] > 0.95
        assert row["ce_clean"] < 4 < row["ce_clean"] + 5 < row["ce_mean"] < row["ce_zero"] + 1
        assert 0.7 < row["ce_recovered_mean"] < row["ce_recovered_zero"] < 1 and row["kl"] > 0


def test_unmasked_explained_variance_is_misleading(embedded, database):
    """Massive activations copied, every other token replaced by the mean: nothing is explained, and unmasked it reads 0.95."""
    reader = ActivationReader.open(embedded.store.path("activations"))
    index_N = reader.token_index("held_out", masked=True)
    r_ND = reader.gather(index_N).double()
    keep_N = reader.reason_BT.flatten()[index_N] == KEEP
    assert 0.95 < keep_N.double().mean() < 1
    ordinary_ND = r_ND[keep_N]
    unexplained = (ordinary_ND - ordinary_ND.mean(0)).square().sum()
    assert 1 - unexplained / (r_ND - r_ND.mean(0)).square().sum() > 0.95
    both = database.sql("select explained_variance, explained_variance_unmasked from sae_metrics").pl()
    assert (both["explained_variance_unmasked"] > both["explained_variance"]).all()


def test_a_clamped_feature_changes_what_the_model_says(database):
    texts = database.sql("select * from steering_generations where half = 'report' and mode <> 'add'").pl()
    said = {control: set(group["completion"]) for (control,), group in texts.group_by("control")}
    assert set(said) == {"none", "baseline", "random_feature", "prompt_only"}
    clamped = set(texts.filter((pl.col("control") == "none") & (pl.col("factor") == 2))["completion"])
    assert clamped - said["baseline"] and all(text.strip() for text in said["baseline"])
