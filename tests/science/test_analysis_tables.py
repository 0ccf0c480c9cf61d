"""The analysis database: every row of every artefact, atomically; views against independent computation; the generated page."""

from datetime import UTC, datetime

import duckdb
import numpy as np
import polars as pl
import pytest

from sae_pipeline.interpret.score_summaries import summarize
from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore
from sae_pipeline.tables import docs
from sae_pipeline.tables.build import DATABASE, build_analysis_db, sql_type
from sae_pipeline.tables.queries import QUERIES
from sae_pipeline.tables.sae_tables import MIXING
from sae_pipeline.tables.schemas import TABLES, conform, empty, polars_schema
from sae_pipeline.tables.views import VIEWS
from tests.published_analysis import publish
from tests.synthetic_analysis import SIZES, synthetic_tables, write_synthetic_analysis

PER_SIZE = [name for name, table in TABLES.items() if table.in_database and "/<size>/" in table.file and name != "lineage"]


@pytest.fixture(scope="module")
def tables():
    return synthetic_tables()


@pytest.fixture(scope="module")
def store(tiny_study, tmp_path_factory, tables):
    assert tuple(tiny_study.sae.sizes) == SIZES
    store = ArtifactStore(tiny_study, tmp_path_factory.mktemp("data"))
    publish(store, tables)
    store.build("analysis_tables", None, lambda work: build_analysis_db(store, work))
    return store


@pytest.fixture(scope="module")
def database(store):
    with duckdb.connect(str(store.root / DATABASE), read_only=True) as connection:
        yield connection


def test_every_table_holds_every_row_of_every_size(database, tables):
    names = {name for (name,) in database.execute("select table_name from duckdb_tables()").fetchall()}
    assert names == {name for name, table in TABLES.items() if table.in_database}
    for name in names - {"lineage"}:
        expected = tables[name].drop("seconds", *MIXING, strict=False).sort(pl.all().exclude(pl.List))
        found = database.sql(f"select * from {name}").pl().select(expected.columns).sort(pl.all().exclude(pl.List))
        assert found.equals(expected), name
    for name in PER_SIZE:
        if len(tables[name]):
            assert tuple(database.sql(f"select distinct size from {name} order by 1").pl()["size"]) == SIZES, name


def test_columns_have_types_order_and_comments_of_the_schemas(database):
    for name in (name for name, table in TABLES.items() if table.in_database):
        described = database.execute(
            "select column_name, data_type, comment from duckdb_columns() where table_name = $t order by column_index",
            {"t": name},
        ).fetchall()
        names = {"FLOAT": "REAL", "FLOAT[]": "REAL[]"}
        assert [(column, names.get(kind, kind)) for column, kind, _ in described] == [
            (column, sql_type(dtype)) for column, dtype in polars_schema(name).items()
        ], name
        assert all(comment for *_, comment in described), name


def test_lineage_and_training_seconds_come_from_the_manifests(database, store):
    rows = database.sql("select * from lineage").pl()
    conform("lineage", rows)
    inputs = (*STAGES["analysis_tables"].upstream, *STAGES["analysis_tables"].optional)
    assert len(rows) == sum(len(sizes_of(store.study, stage)) for stage in inputs)
    manifest = store.manifest("sae", 64)
    row = rows.filter(stage="sae", size=64).row(0, named=True)
    assert row["data_version"] == manifest.data_version and row["seconds"] == manifest.seconds
    assert row["started"] == datetime.fromisoformat(manifest.started).astimezone(UTC).replace(tzinfo=None)
    seconds = database.sql("select seconds from sae_metrics where size = 64").pl()["seconds"].to_list()
    assert seconds == [manifest.seconds]


def test_an_equal_build_has_an_equal_data_version_and_is_not_repeated(store):
    before = store.manifest("analysis_tables")
    assert store.build("analysis_tables", None, lambda work: build_analysis_db(store, work)).reused
    again = store.build("analysis_tables", None, lambda work: build_analysis_db(store, work), force=True)
    assert not again.reused and again.manifest.data_version == before.data_version
    assert sorted(path.name for path in store.path("analysis_tables").iterdir()) == ["manifest.json", "row_counts.json"]


def test_specificity_by_interval_pairs_the_same_windows(database, store, tables, tmp_path):
    """Windows of the fixture are not shared between controls; here they are, and brute force pairs them."""
    rows = tables["specificity_scores"].filter(pl.col("control").is_in(["none", "shuffled"]), pl.col("kind") == "active")
    rows = rows.with_columns(example_id=pl.int_range(pl.len()).over("size", "control").cast(pl.Int64))
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        connection.register("incoming", conform("specificity_scores", rows).to_arrow())
        connection.execute("create table specificity_scores as select * from incoming").fetchall()
        connection.register("no_judge", empty("judge_calibration").to_arrow())
        connection.execute("create table judge_calibration as select * from no_judge").fetchall()
        found = connection.sql(VIEWS["specificity_by_interval"].query).pl()
    assert len(found) == len(SIZES) * 10
    for row in found.iter_rows(named=True):
        mine = rows.filter(size=row["size"], interval=row["interval"])
        score = {(r["control"], r["example_id"]): r["score"] for r in mine.iter_rows(named=True)}
        unit = {r["example_id"]: r["unit_id"] for r in mine.iter_rows(named=True)}
        by_unit = {}
        for (control, example), value in score.items():
            other = score.get(("shuffled", example))
            if control == "none" and value is not None and other is not None:
                by_unit.setdefault(unit[example], []).append((value, other))
        means = np.array([np.mean(pairs, axis=0) for pairs in by_unit.values()])
        difference = means[:, 0] - means[:, 1]
        assert row["n_features"] == len(means) and row["n_windows"] == sum(map(len, by_unit.values()))
        assert row["matched"] == pytest.approx(means[:, 0].mean()) and row["shuffled"] == pytest.approx(means[:, 1].mean())
        half = 1.96 * difference.std(ddof=1) / np.sqrt(len(means))
        assert row["difference"] == pytest.approx(difference.mean())
        assert (row["low"], row["high"]) == pytest.approx((difference.mean() - half, difference.mean() + half))


def test_explainer_leaderboard_counts_what_has_no_value(database, tables):
    found = database.sql("select * from explainer_leaderboard").pl()
    scores = tables["explanation_scores"]
    assert len(found) == len(SIZES) * 2 * 2
    random = np.random.default_rng(1)
    for row in found.iter_rows(named=True):
        mine = scores.filter(size=row["size"], metric=row["metric"])
        arm = mine.filter(control=row["control"])
        value = arm["value"].drop_nulls().to_numpy()
        assert (row["scorer"], row["n_scored"], row["n_attempted"]) == ("rule", 11, 12)
        assert row["mean"] == pytest.approx(value.mean()) and row["median"] == pytest.approx(np.median(value))
        # Another bootstrap, with draws of its own, gives the same interval up to its noise.
        means = value[random.integers(0, len(value), (4000, len(value)))].mean(axis=1)
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.1 * value.std())
        pairs = arm.join(mine.filter(control="shuffled"), on="unit_id", suffix="_s").drop_nulls("value")
        if row["control"] == "none":
            assert row["n_paired"] == pairs.height == 11
            assert row["minus_shuffled"] == pytest.approx((pairs["value"] - pairs["value_s"]).mean())
            assert row["minus_shuffled_low"] < row["minus_shuffled"] < row["minus_shuffled_high"]
        else:
            assert row["n_paired"] == 0 and row["minus_shuffled"] is None


@pytest.mark.parametrize(("passed", "plumbing"), [(True, False), (False, False), (True, True), (None, False)])
def test_only_a_judge_that_passed_its_calibration_stands_in_a_leaderboard(tmp_path, tables, passed, plumbing):
    scores, specificity = tables["explanation_scores"], tables["specificity_scores"].filter(control="none")
    specificity = pl.concat([specificity, specificity.with_columns(control=pl.lit("shuffled"))])
    judged = scores.with_columns(method=pl.lit("llm-v1"), scorer=pl.lit("some-judge"), plumbing=pl.lit(plumbing))
    rated = specificity.with_columns(method=pl.lit("rubric-v1-of-llm-v1"), model=pl.lit("some-judge"), plumbing=pl.lit(plumbing))
    verdict = {
        "model": "some-judge", "prompt": "rubric-v1", "label_kappa": 0.7, "n_labels": 24, "n_labels_answered": 24,
        "repeat_kappa": 0.8, "n_repeated": 9, "matched_minus_shuffled_low": 0.1, "answered_share": 1.0, "passed": passed,
        "reasons": "", "plumbing": plumbing, "n_proxy_pairs": 0, "proxy_kappa": None, "proxy_rank_correlation": None,
    }  # fmt: skip
    changed = tables | {
        "explanation_scores": pl.concat([scores, judged]),
        "explanation_score_summaries": summarize(pl.concat([scores, judged]), seed=0),
        "specificity_scores": pl.concat([specificity, rated]),
    }
    if passed is not None:
        changed["judge_calibration"] = pl.DataFrame([{"size": size, **verdict} for size in SIZES])
    file = write_synthetic_analysis(tmp_path / "analysis.duckdb", changed)
    with duckdb.connect(str(file), read_only=True) as connection:
        believed = bool(passed) and not plumbing
        for view, column in (
            ("explainer_leaderboard", "scorer"),
            ("leaderboard", "score_model"),
            ("specificity_by_interval", "model"),
        ):
            found = {row[0] for row in connection.sql(f"select distinct {column} from {view}").fetchall()}
            assert ("some-judge" in found) == believed and found - {"some-judge"}, view


def test_best_steerable_shows_one_pair_of_the_same_prompt_and_the_clearest_first(database, tables):
    found = database.sql("select * from best_steerable").pl()
    assert len(found) == len(tables["steering_features"])
    assert found["passes"].to_list() == sorted(found["passes"], reverse=True)
    for row in found.iter_rows(named=True):
        if row["best_factor"] is None:
            assert row["after"] is None
            continue
        texts = tables["steering_generations"].filter(
            size=row["size"], target_feature=row["feature"], half="report", prompt=row["prompt"]
        )
        steered = texts.filter(control="none", factor=row["best_factor"])
        assert row["after"] in steered["completion"].to_list()
        assert row["before"] in texts.filter(control="baseline")["completion"].to_list()
        hits = tables["steering_generations"].filter(
            size=row["size"], target_feature=row["feature"], half="report", control="none", factor=row["best_factor"],
            concept_hit=True,
        )  # fmt: skip
        if len(hits):
            assert row["prompt"] in hits["prompt"].to_list()


def test_leaderboard_has_one_row_per_size_and_medians_of_the_tables(database, tables):
    found = database.sql("select * from leaderboard").pl()
    assert tuple(found["size"]) == SIZES
    for row in found.iter_rows(named=True):
        living = tables["features"].filter(pl.col("alive"), size=row["size"])
        assert row["n_alive"] == len(living) and row["median_density"] == pytest.approx(living["density"].median())
        f1 = tables["explanation_scores"].filter(size=row["size"], metric="rule_f1", control="none")["value"]
        assert row["rule_f1"] == pytest.approx(f1.median())
        assert row["n_steered"] == 4 and row["n_passing"] == 2


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_every_named_query_runs_and_answers(database, name):
    parameters = QUERIES[name].defaults | ({"size": 32} if name == "feature" else {})
    answer = database.sql(QUERIES[name].sql, params=parameters or None).pl()
    if name != "specificity":
        assert len(answer) > 0


def test_committed_page_is_what_the_schemas_say():
    assert docs.PAGE.read_text(encoding="utf-8") == docs.render(), "run `python -m sae_pipeline.tables.docs`"
    for name, table in TABLES.items():
        assert f"## {name}\n" in docs.render()
        assert all(f"| `{column}` |" in docs.render() for column in table.schema.columns)


# --- what must not happen
