"""Every blocking check passes on the finished tiny study and fails once on purpose, on a damaged copy."""

import shutil
from pathlib import Path

import duckdb
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from assets import STAGE_ASSETS
from assets.activations import all_finite, masked_fraction, tokens_match_corpus
from assets.analysis_tables import every_size, row_counts
from assets.corpus import nothing_empty, splits_disjoint
from assets.explanations import coverage
from assets.feature_stats import activations_recomputed, live_features_have_examples
from assets.neighbourhoods import neighbours_recomputed
from assets.random_model import enough_live
from assets.sae import history_is_whole, weights_are_sound
from assets.sae_metrics import one_row
from assets.specificity_scores import controls_present as specificity_controls_present
from assets.specificity_scores import figures, scores_are_levels
from assets.steering_evals import controls_present as steering_controls_present
from assets.verdicts import schema_check
from sae_pipeline.stages import STAGES
from sae_pipeline.study_survey import Neighbourhoods
from sae_pipeline.survey.build import NEIGHBOURS, build_neighbourhoods
from sae_pipeline.tables.schemas import TABLES

SIZE = 64


@pytest.fixture(scope="module")
def surveyed(finished_study, tmp_path_factory):
    """The survey's artefact, which the main run does not build."""
    folder = tmp_path_factory.mktemp("survey") / "neighbourhoods"
    folder.mkdir()
    build_neighbourhoods({size: finished_study.store.path("sae", size) for size in (32, 64)}, Neighbourhoods(), folder)
    return folder


@pytest.fixture
def copy_of(finished_study, surveyed, tmp_path):
    """Folder of a private copy of a published artefact."""

    def copy(stage: str, size: int | None = None) -> Path:
        source = surveyed if stage == "neighbourhoods" else finished_study.store.path(stage, size)
        return shutil.copytree(source, tmp_path / stage)

    return copy


def edit(file: Path, change) -> None:
    change(pl.read_parquet(file)).write_parquet(file)


def edit_tensors(file: Path, change) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


# The survey's assets have their checks tested beside their science, but for the first of them.
STAGES_WITH_TABLES = sorted(
    {stage for table in TABLES.values() if (stage := Path(table.file).parts[0]) in STAGES and not STAGES[stage].in_survey}
    | {"neighbourhoods"}
)


@pytest.mark.parametrize("stage", STAGES_WITH_TABLES)
def test_schema(copy_of, stage):
    sized = next(Path(table.file).parts[1] == "<size>" for table in TABLES.values() if Path(table.file).parts[0] == stage)
    folder = copy_of(stage, SIZE if sized else None)
    passed = schema_check(folder, stage)
    assert passed.passed, passed
    assert any(value > 0 for value in passed.metadata.values())
    file = next(folder / path.name for path in sorted(folder.glob("*.parquet")))
    edit(file, lambda frame: frame.with_columns(surprise=pl.lit(1)))
    failed = schema_check(folder, stage)
    assert not failed.passed and file.name in failed.summary
    file.unlink()
    assert schema_check(folder, stage).summary == f"{file.name} is missing"


def test_corpus_splits_disjoint(copy_of):
    folder = copy_of("corpus")
    assert splits_disjoint(folder).passed
    flip = pl.when(pl.col("doc_id") == 0).then(
        pl.when(pl.col("split") == "train").then(pl.lit("held_out")).otherwise(pl.lit("train"))
    )
    edit(folder / "documents.parquet", lambda frame: frame.with_columns(split=flip.otherwise(pl.col("split"))))
    assert splits_disjoint(folder).metadata["n_wrong"] == 1


def test_corpus_nothing_empty(copy_of):
    folder = copy_of("corpus")
    assert nothing_empty(folder).passed
    edit(folder / "documents.parquet", lambda frame: frame.with_columns(language=pl.lit("")))
    assert "without a language" in nothing_empty(folder).summary
    sources = folder / "corpus_sources.parquet"
    edit(sources, lambda frame: frame.filter((pl.col("split") == "train") | (pl.col("source") != "notes")))
    assert "['notes']" in nothing_empty(folder).summary


def test_activations_finite(copy_of):
    folder = copy_of("activations")
    assert all_finite(folder).passed
    shard = sorted((folder / "shards").glob("*.safetensors"))[0]

    def poison(tensors):
        tensors["activations_BTD"][0, 1, 2] = float("nan")

    edit_tensors(shard, poison)
    assert all_finite(folder).summary == f"not finite: {shard.name}:activations_BTD"


def test_activations_tokens_match_corpus(copy_of, finished_study):
    folder, corpus = copy_of("activations"), finished_study.store.path("corpus")
    assert tokens_match_corpus(folder, corpus).passed

    def swap(tensors):
        tensors["token_ids_BT"][0, 3] += 1

    edit_tensors(sorted((folder / "shards").glob("*.safetensors"))[0], swap)
    assert not tokens_match_corpus(folder, corpus).passed


def test_activations_masked_fraction(copy_of):
    folder = copy_of("activations")
    share = masked_fraction(folder, 0.5).metadata["fraction"]
    assert 1 / 32 <= share < 0.2  # position 0 of every block of 32, and a little more
    assert masked_fraction(folder, share).passed
    assert "more than activations.max_masked_fraction" in masked_fraction(folder, share / 2).summary


def test_sae_finite(copy_of):
    folder = copy_of("sae", SIZE)
    assert weights_are_sound(folder).passed

    def stretch(tensors):
        tensors["W_dec_FD"][3] *= 1.01

    edit_tensors(folder / "weights.safetensors", stretch)
    assert "norm is 1.0e-02 away from 1" in weights_are_sound(folder).summary

    def poison(tensors):
        tensors["b_enc_F"][0] = torch.inf

    edit_tensors(folder / "weights.safetensors", poison)
    assert weights_are_sound(folder).summary == "not finite: b_enc_F"
    (folder / "weights.safetensors").unlink()
    assert not weights_are_sound(folder).passed


def test_sae_trained(copy_of):
    folder = copy_of("sae", SIZE)
    assert history_is_whole(folder).passed
    edit(folder / "history.parquet", lambda frame: frame.head(-1))
    assert not history_is_whole(folder).passed
    edit(folder / "history.parquet", lambda frame: frame.head(0))
    assert "ends at 0 tokens" in history_is_whole(folder).summary


def test_sae_metrics_one_row(copy_of, finished_study):
    folder, corpus = copy_of("sae_metrics", SIZE), finished_study.store.path("corpus")
    assert one_row(folder, SIZE, corpus).passed
    assert "sizes [64] instead of [32]" in one_row(folder, 32, corpus).summary
    edit(folder / "sae_metrics_by_source.parquet", lambda frame: frame.filter(pl.col("source") != "notes"))
    assert "sources missing: ['notes']" in one_row(folder, SIZE, corpus).summary


def test_feature_stats_examples(copy_of):
    folder = copy_of("feature_stats", SIZE)
    assert live_features_have_examples(folder).passed
    edit(folder / "feature_examples.parquet", lambda frame: frame.filter(pl.col("feature") != frame["feature"][0]))
    assert "1 live features without examples" in live_features_have_examples(folder).summary


def test_feature_stats_recomputed(copy_of, finished_study):
    folder, store = copy_of("feature_stats", SIZE), finished_study.store
    assert activations_recomputed(folder, store.path("activations"), store.path("sae", SIZE)).passed
    # Another SAE's activations in place of this one's.
    other = store.path("feature_stats", 32) / "activations_held_out.parquet"
    shutil.copy(other, folder / "activations_held_out.parquet")
    verdict = activations_recomputed(folder, store.path("activations"), store.path("sae", SIZE))
    assert not verdict.passed and verdict.metadata["error"] > 0.1


def test_explanations_coverage(copy_of, finished_study):
    folder, features = copy_of("explanations", SIZE), finished_study.store.path("feature_stats", SIZE)
    assert coverage(folder, features, None).passed
    edit(folder / "explanations.parquet", lambda frame: frame.filter(pl.col("feature").fill_null(-1) != 5))
    assert "1 live features without a row, such as [5]" in coverage(folder, features, None).summary
    assert coverage(folder, features, [1, 2]).passed


def test_specificity_pictures_hold_the_chosen_features(copy_of, finished_study):
    folder = copy_of("specificity_scores", SIZE)
    scored = pl.read_parquet(folder / "specificity_scores.parquet").filter(control="none", status="ok", kind="active")
    feature = int(scored["feature"][0])
    close = pl.when(pl.col("feature") == feature, pl.col("interval") < 5).then(pl.lit("close_look")).otherwise("kind")
    edit(folder / "specificity_scores.parquet", lambda frame: frame.with_columns(kind=close))
    drawn = figures(folder, finished_study.store.path("feature_stats", SIZE))
    assert set(drawn) == {"by_interval_proxy", f"density_{feature}_proxy"}
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())


def test_random_model_features(copy_of):
    folder = copy_of("random_model")
    assert enough_live(folder, 3000).passed

    def silence(tensors) -> None:
        name = "random_model_feature.held_out"
        tensors[f"{name}.offsets"].zero_()
        tensors[f"{name}.token_index"], tensors[f"{name}.value"] = (
            tensors[f"{name}.token_index"][:0],
            tensors[f"{name}.value"][:0],
        )

    edit_tensors(folder / "units.safetensors", silence)
    assert "0 features are live" in enough_live(folder, 3000).summary
    assert enough_live(folder, 0).passed  # nobody asked for it


def test_specificity_scores(copy_of):
    folder = copy_of("specificity_scores", SIZE)
    file = folder / "specificity_scores.parquet"
    assert scores_are_levels(folder).passed
    edit(file, lambda frame: frame.with_columns(status=pl.lit("refusal")))  # a refusal must not carry a score
    assert not scores_are_levels(folder).passed
    edit(file, lambda frame: frame.with_columns(status=pl.lit("ok"), score=pl.lit(4, pl.Int8)))
    assert scores_are_levels(folder).summary == f"{pl.read_parquet(file).height} rows with an impossible score"


def test_specificity_controls(copy_of):
    folder = copy_of("specificity_scores", SIZE)
    assert specificity_controls_present(folder, 16, 3000).passed
    edit(folder / "specificity_scores.parquet", lambda frame: frame.filter(pl.col("control") != "mlp_neuron"))
    assert "['mlp_neuron']" in specificity_controls_present(folder, 16, 3000).summary
    assert specificity_controls_present(folder, 0, 3000).passed
    edit(folder / "specificity_scores.parquet", lambda frame: frame.filter(pl.col("control") != "random_model"))
    assert "['random_model']" in specificity_controls_present(folder, 0, 3000).summary
    assert specificity_controls_present(folder, 0, 0).passed


def test_steering_controls(copy_of):
    folder = copy_of("steering_evals", SIZE)
    assert steering_controls_present(folder).passed
    edit(folder / "steering_scores.parquet", lambda frame: frame.filter(pl.col("control") != "prompt_only"))
    assert "prompt_only of" in steering_controls_present(folder).summary


def test_neighbours_recomputed(copy_of, finished_study):
    saes = {size: finished_study.store.path("sae", size) for size in (32, 64)}
    folder = copy_of("neighbourhoods")
    assert neighbours_recomputed(folder, saes).passed
    edit(folder / NEIGHBOURS, lambda frame: frame.with_columns(pl.col("cosine") * 0.99))
    assert not neighbours_recomputed(folder, saes).passed


def test_database_every_size_and_row_counts(finished_study, tmp_path):
    root = finished_study.store.root
    database = shutil.copy(root / "analysis.duckdb", tmp_path / "analysis.duckdb")
    assert every_size(database, [32, 64]).passed
    assert not every_size(database, [32, 64, 128]).passed
    assert row_counts(database, root, [32, 64], set()).passed
    with duckdb.connect(str(database)) as connection:
        connection.execute("delete from features where feature = 3")
    assert row_counts(database, root, [32, 64], set()).summary == "features has 94 rows instead of 96"


def test_every_declared_check_is_tested_here():
    """A new check belongs into this list together with a test above that makes it fail."""
    assert {
        f"{asset.stage}: {', '.join(asset.checks)}"
        for asset in STAGE_ASSETS
        if asset.checks and not STAGES[asset.stage].in_survey
    } == {
        "corpus: schema, splits_disjoint, nothing_empty",
        "activations: schema, finite, tokens_match_corpus, masked_fraction",
        "random_model: features",
        "sae: schema, finite, trained",
        "sae_metrics: schema, one_row",
        "feature_stats: schema, examples, recomputed",
        "explanations: schema, coverage",
        "specificity_scores: schema, scores, controls",
        "steering_evals: schema, controls",
        "analysis_tables: every_size, row_counts",
    }
