"""The real graph on the tiny model: every builder, every file, the database and the page, as the command line runs it."""

import shutil

import dagster as dg
import duckdb
import polars as pl
import pytest
import yaml
from safetensors.torch import load_file

from sae_pipeline.browser.links import page_url
from sae_pipeline.definitions import build_defs
from sae_pipeline.plan_seconds import n_texts
from sae_pipeline.runner import Wanted, run_pipeline
from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study
from sae_pipeline.tables.sae_tables import MIXING

ALL = 3 + 6 * 2 + 3


class Copy:
    """A copy of the finished study that a test may damage."""

    def __init__(self, finished, folder, instance):
        shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
        self.file, self.root, self.instance = folder / "study.yaml", folder / "data", instance
        self.store = ArtifactStore(load_study(self.file), self.root, self.file)

    def run(self, **wanted):
        defs = build_defs(load_study(self.file), root=self.root, study_file=self.file)
        return run_pipeline(defs, self.store, self.instance, Wanted(**wanted))


@pytest.fixture
def copy(finished_study, tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Copy(finished_study, tmp_path / "copy", instance)


def test_everything_is_built_and_says_what_comes_next(finished_study):
    assert finished_study.exit_code == 0, finished_study.errors
    store = finished_study.store
    states = {(stage, size): store.freshness(stage, size).state for stage in STAGES for size in sizes_of(store.study, stage)}
    survey = {key: states.pop(key) for key in list(states) if STAGES[key[0]].in_survey}
    assert set(survey.values()) == {"missing"}  # the survey is asked for by name
    assert len(states) == ALL and set(states.values()) == {"fresh"}
    for words in (
        "Study tiny",
        "expected:",
        "Held-out quality of each SAE",
        "Best steerable features",
        "Where to look next",
        "make ui",
    ):
        assert words in finished_study.output, words
    with duckdb.connect(str(store.root / "analysis.duckdb"), read_only=True) as connection:
        assert connection.execute("select size from sae_metrics order by size").fetchall() == [(32,), (64,)]
        assert connection.execute("select count(distinct stage) from lineage").fetchone() == (9,)
        query = "select distinct_documents_per_batch, same_context_pairs_per_batch from sae_metrics where size = 64"
        mixing = connection.execute(query).fetchone()
    manifest = store.manifest("sae", 64)
    assert mixing is not None and mixing[0] > 1 and mixing == tuple(manifest.metadata[name] for name in MIXING)
    assert "<html" in (store.path("report") / "report.html").read_text(encoding="utf-8")


TOP_EXAMPLES = """
WITH documents AS (
    SELECT block * len(doc_ids) + position - 1 AS token_index, doc_ids[position] AS doc_id
    FROM (SELECT block, doc_ids, unnest(range(1, len(doc_ids) + 1)) AS position FROM read_parquet($blocks))
), strongest_of_document AS (
    SELECT feature, doc_id, token_index, value FROM read_parquet($activations) JOIN documents USING (token_index)
    QUALIFY row_number() OVER (PARTITION BY feature, doc_id ORDER BY value DESC, token_index) = 1
)
SELECT feature, row_number() OVER (PARTITION BY feature ORDER BY value DESC, token_index) AS rank, doc_id, token_index, value
FROM strongest_of_document QUALIFY rank <= $n_top ORDER BY feature, rank
"""


def test_sql_over_the_cached_activations_finds_every_features_top_examples(finished_study):
    store = finished_study.store
    for size in store.study.sae.sizes:
        folder = store.path("feature_stats", size)
        asked = {
            "blocks": str(store.path("corpus") / "blocks.parquet"), "activations": str(folder / "activations_train.parquet"),
            "n_top": store.study.features.n_top,
        }  # fmt: skip
        with duckdb.connect() as connection:
            found = connection.execute(TOP_EXAMPLES, asked).fetchall()
        examples = pl.read_parquet(folder / "feature_examples.parquet").filter(kind="top").sort("feature", "rank")
        assert found == examples.select("feature", "rank", "doc_id", "token_index", "activation").rows()
        assert len(found) > size  # several for most features


def test_runs_are_on_the_studys_own_instance_with_versions_metadata_and_checks(finished_study):
    with dg.DagsterInstance.from_config(str(finished_study.home)) as instance:
        assert [run.job_name for run in instance.get_runs()][::-1] == ["prepare", "per_size", "per_size", "compare"]
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        for stage, spec in STAGES.items():
            if spec.in_survey:
                continue
            filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(stage), asset_partitions=["64"] if spec.per_size else None)
            (record,) = instance.fetch_materializations(filters, limit=1).records
            event = record.asset_materialization
            assert event is not None and event.tags is not None
            manifest = finished_study.store.manifest(stage, 64 if spec.per_size else None)
            assert event.tags["dagster/data_version"] == manifest.data_version
            assert event.tags["dagster/code_version"] == spec.code_version
            assert event.metadata["reused"].value is False
            assert event.metadata["path"].value == str(finished_study.store.path(stage, 64 if spec.per_size else None))
            if (page := page_url("tiny", stage, 64 if spec.per_size else None)) is not None:
                assert event.metadata["page"].value == page and "/of/tiny/" in page
            if stage == "sae":
                assert "data:image/png;base64," in str(event.metadata["training"].value)


def test_the_survey_fills_its_tables_and_the_main_run_then_has_nothing_to_do(copy):
    for stage in ("neighbourhoods", "main_results"):
        report = copy.run(only=stage)
        assert [stage for stage, _ in report.executed] == [stage] and not report.failed, report.bugs
    assert [stage for stage, _ in copy.run().executed] == ["analysis_tables", "size_comparison", "report"]
    with duckdb.connect(str(copy.root / "tiny" / "analysis.duckdb"), read_only=True) as connection:
        assert connection.execute("select size, count(*) from feature_map group by size order by size").fetchall() == [
            (32, 32), (64, 64),
        ]  # fmt: skip
        (n,) = connection.execute("select count(*) from feature_neighbours").fetchone() or (0,)
        assert n == (32 + 64) * 2 * 15
        assert connection.execute("select count(*) from lineage where stage = 'neighbourhoods'").fetchone() == (1,)
    assert copy.run().executed == []


def test_the_case_studies_of_a_model_that_knows_nothing_are_whole_and_find_little(copy):
    for stage in ("case_studies", "case_clamps"):
        report = copy.run(only=stage)
        assert [stage for stage, _ in report.executed] == [stage] and not report.failed, report.bugs
    measured = pl.concat(
        [pl.read_parquet(copy.store.path(stage) / "measurements.parquet") for stage in ("case_studies", "case_clamps")]
    )
    assert measured["measurement"].n_unique() == measured.height and measured["files_sha"].null_count() == 0
    ok = measured.filter(pl.col("status") == "ok")
    # A corpus without Python, a model without weights of its own: of the cases of detection none reaches its threshold.
    assert measured.filter(pl.col("measurement") == "python_syntax_f1")["status"].to_list() == ["not_testable"]
    assert ok.filter(pl.col("measurement") == "code_error_auroc_python").filter(pl.col("value") >= 0.85).is_empty()
    assert set(ok.filter(pl.col("control_value").is_null())["measurement"]) <= {"debugged_behaviour_cost"}


def test_the_plan_bounds_the_texts_that_steering_generates(finished_study):
    steer, store = finished_study.store.study.steer, finished_study.store
    for size, is_largest in ((32, False), (64, True)):
        made = len(pl.read_parquet(store.path("steering_evals", size) / "steering_generations.parquet", columns=["size"]))
        assert made <= n_texts(steer, 2, is_largest) < 2 * made


def test_second_run_recomputes_nothing_and_says_so(finished_study):
    before = {path: path.stat().st_mtime_ns for path in finished_study.store.root.rglob("*") if path.is_file()}
    code, output, _ = finished_study.command("run")
    assert code == 0
    assert f"Nothing to recompute: all {ALL} artefacts are fresh by their digests." in output
    assert "Held-out quality of each SAE" in output
    assert {path: path.stat().st_mtime_ns for path in finished_study.store.root.rglob("*") if path.is_file()} == before


def test_flipped_byte_in_weights_trains_that_size_again_and_nothing_else(copy):
    weights = copy.store.path("sae", 64) / "weights.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert copy.store.freshness("sae", 64).state == "corrupt"
    report = copy.run()
    assert report.executed == [("sae", 64)]
    assert weights.read_bytes() == original


def test_deleted_shard_is_harvested_again_and_nothing_below_runs(copy):
    shard = sorted((copy.store.path("activations") / "shards").glob("*.safetensors"))[0]
    original = shard.read_bytes()
    shard.unlink()
    report = copy.run()
    assert report.executed == [("activations", None)]
    assert shard.read_bytes() == original


def test_corrupt_shard_stops_a_single_stage_with_its_name(copy):
    shard = sorted((copy.store.path("activations") / "shards").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    report = copy.run(only="sae", sizes=(32,), force=True)
    assert len(report.user_errors) == 1
    assert shard.name in report.user_errors[0].where and "digest mismatch" in report.user_errors[0].what
    assert copy.store.freshness("sae", 64).state == "fresh"


def test_same_study_gives_the_same_bytes_again(copy, finished_study):
    report = copy.run(force=True)
    assert not report.failed and len(report.executed) == ALL
    first = {path: finished_study.store.manifest(*path).data_version for path in report.executed}
    again = {path: copy.store.manifest(*path).data_version for path in report.executed}
    assert again == first


def test_features_option_steers_just_those(finished_study, tmp_path):
    folder = tmp_path / "features"
    shutil.copytree(finished_study.folder, folder)
    elsewhere = finished_study.at(folder)
    alive = pl.read_parquet(elsewhere.store.path("feature_stats", 32) / "features.parquet").filter("alive")["feature"].to_list()
    code, _, errors = elsewhere.command("run", "--only", "steering_evals", "--size", "32", "--features", f"{alive[0]}")
    assert code == 0, errors
    steered = pl.read_parquet(elsewhere.store.path("steering_evals", 32) / "steering_features.parquet")["feature"].to_list()
    assert steered == [alive[0]]
    assert elsewhere.store.freshness("steering_evals", 32).why == "the study changed"


def test_steer_prints_both_answers_and_names_what_is_wrong(finished_study):
    size_64 = ("--size", "64", "--prompt", "the ship", "--max-new-tokens", "5", "--device", "cpu")
    code, output, errors = finished_study.command("steer", "--feature", "3", "--factor", "2", *size_64)
    assert code == 0, errors
    assert "feature 64/3 clamped to 2 x its maximum" in output
    code, _, errors = finished_study.command("steer", "--feature", "64", *size_64)
    assert code == 2 and errors.count("\n") == 1 and "64" in errors


def test_streamed_activations_train_all_sizes_in_one_pass(copy):
    """The second size's own run finds its training done, and whatever reads activations computes them."""
    text = copy.file.read_text(encoding="utf-8")
    study = yaml.safe_load(text)
    study["activations"] = study.get("activations", {}) | {"source": "streaming"}
    copy.file.write_text(yaml.safe_dump(study), encoding="utf-8")
    copy.store = ArtifactStore(load_study(copy.file), copy.root, copy.file)
    assert not copy.run(only="activations").failed
    shard = sorted((copy.store.path("activations") / "shards").glob("*.safetensors"))[0]
    assert "activations_BTD" not in load_file(shard)
    report = copy.run(only="sae")
    assert not report.failed and [stage for stage, _ in report.executed] == ["sae"] * len(study["sae"]["sizes"])
    first, second = (copy.store.manifest("sae", size) for size in study["sae"]["sizes"])
    assert first and second
    assert first.metadata["trained_with"] == study["sae"]["sizes"][1:] and first.metadata["resumed_at_step"] == 0
    assert second.metadata["trained_with"] == [] and second.metadata["resumed_at_step"] == second.metadata["n_steps"]
    assert not copy.run(only="feature_stats").failed and not copy.run(only="sae_metrics").failed
    assert copy.store.freshness("feature_stats", study["sae"]["sizes"][0]).state == "fresh"


def test_stored_activations_train_all_sizes_in_one_pass_to_the_same_bytes(copy):
    """By the command line's option, and by one Dagster run over a range of sizes; each alone gave what is there before."""
    sizes = copy.store.study.sae.sizes
    alone = {size: copy.store.manifest("sae", size) for size in sizes}
    defs = build_defs(copy.store.study, root=copy.root, study_file=copy.file)
    first, last = str(sizes[0]), str(sizes[-1])
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    for by_range in (False, True):
        for size in sizes:
            shutil.rmtree(copy.store.path("sae", size))
        if by_range:
            job = defs.resolve_implicit_global_asset_job_def()
            assert job.execute_in_process(instance=copy.instance, asset_selection=[dg.AssetKey("sae")], tags=tags).success
        else:
            assert not copy.run(only="sae", one_pass=True).failed
        for size in sizes:
            built, before = copy.store.manifest("sae", size), alone[size]
            assert built and before and built.files == before.files and built.data_version == before.data_version
            assert built.metadata["trained_with"] == (sizes[1:] if size == sizes[0] else [])
            assert built.metadata["resumed_at_step"] == (0 if size == sizes[0] else built.metadata["n_steps"])
    events = copy.instance.fetch_materializations(dg.AssetKey("sae"), limit=len(sizes)).records
    reported = {event.partition_key: event.asset_materialization for event in events}
    assert set(reported) == {first, last}
    for size in sizes:
        assert reported[str(size)].tags["dagster/data_version"] == alone[size].data_version
        assert reported[str(size)].metadata["n_features"].value == size
