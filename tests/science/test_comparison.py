"""The size comparison: its numbers against a recount in plain Python, its files the same every time."""

import dataclasses
import json
from pathlib import Path
from statistics import mean

import duckdb
import numpy as np
import polars as pl
import pytest

from sae_pipeline.plots import comparison as comparison_module
from sae_pipeline.plots.comparison import FIGURES, TABLE, build_size_comparison, figure_file
from sae_pipeline.plots.figure import THEMES
from sae_pipeline.plots.summaries import size_comparison
from sae_pipeline.report.build import REPORT, build_report
from sae_pipeline.store import Outcome
from tests.synthetic_analysis import SIZES, synthetic_tables, write_synthetic_analysis


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return synthetic_tables()


@pytest.fixture(scope="module")
def comparison(made_up_database: Path) -> pl.DataFrame:
    with duckdb.connect(str(made_up_database), read_only=True) as connection:
        return size_comparison(connection)


def row_of(comparison: pl.DataFrame, **keys) -> dict:
    rows = comparison.filter(*(pl.col(key) == value for key, value in keys.items())).to_dicts()
    assert len(rows) == 1, rows
    return rows[0]


def test_specificity_is_the_mean_of_interval_means(comparison: pl.DataFrame, tables: dict[str, pl.DataFrame]):
    scores = [
        row
        for row in tables["specificity_scores"].to_dicts()
        if row["size"] == 32 and row["kind"] == "active" and row["control"] == "none"
    ]
    per_unit = []
    for unit in {row["unit_id"] for row in scores}:
        cells: dict[int, list[int]] = {}
        for row in scores:
            if row["unit_id"] == unit and row["score"] is not None:
                cells.setdefault(row["interval"], []).append(row["score"])
        per_unit.append(mean(mean(cell) for cell in cells.values()))
    found = row_of(comparison, size=32, metric="mean_score", control="none")
    assert found["value"] == pytest.approx(mean(per_unit))
    assert found["high"] - found["value"] == pytest.approx(1.96 * np.std(per_unit, ddof=1) / np.sqrt(len(per_unit)))
    assert (found["n_scored"], found["n_attempted"]) == (len(scores) - 1, len(scores))


def test_every_score_stands_beside_its_control(comparison: pl.DataFrame):
    for metric in ("mean_score", "rule_f1", "detection_auroc"):
        found = set(comparison.filter((pl.col("metric") == metric) & (pl.col("size") == 64))["control"])
        assert {"none", "shuffled"} <= found


def test_what_could_not_be_scored_is_counted_and_never_a_zero(comparison: pl.DataFrame, tables: dict[str, pl.DataFrame]):
    rows = tables["explanation_scores"].filter(
        (pl.col("size") == 32) & (pl.col("metric") == "rule_f1") & (pl.col("control") == "none")
    )
    found = row_of(comparison, size=32, metric="rule_f1", control="none")
    assert (found["n_scored"], found["n_attempted"]) == (11, 12)
    assert found["value"] == pytest.approx(rows["value"].drop_nulls().mean())


def test_metrics_and_steering_are_those_of_their_tables(comparison: pl.DataFrame):
    assert [row_of(comparison, size=size, metric="explained_variance")["value"] for size in SIZES] == pytest.approx([0.7, 0.8])
    passes = row_of(comparison, size=32, metric="passes")
    assert passes["value"] == 0.5 and (passes["n_scored"], passes["n_attempted"]) == (3, 4)


def test_the_figure_of_differences_draws_the_rows_of_the_view(
    made_up_database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    drawn = []
    figure = next(figure for figure in FIGURES if figure.name == "specificity_difference")
    spy = dataclasses.replace(figure, draw=lambda rows, theme: drawn.append(rows) or b"")
    monkeypatch.setattr(comparison_module, "FIGURES", [spy])
    build_size_comparison(made_up_database, tmp_path)
    row = drawn[0].filter((pl.col("size") == 32) & (pl.col("interval") == 3)).to_dicts()[0]
    scores = synthetic_tables()["specificity_scores"].filter(
        (pl.col("size") == 32) & (pl.col("interval") == 3) & (pl.col("kind") == "active") & pl.col("score").is_not_null()
    )
    means = {
        (unit, control): float(group["score"].to_numpy().mean())
        for (unit, control), group in scores.group_by("unit_id", "control")
        if control in ("none", "shuffled")
    }
    differences = [means[unit, "none"] - means[unit, "shuffled"] for unit in range(8)]
    assert row["n_features"] == 8 and row["difference"] == pytest.approx(np.mean(differences))
    assert row["high"] - row["difference"] == pytest.approx(1.96 * np.std(differences, ddof=1) / np.sqrt(8))


def test_the_artefact_has_every_figure_and_equal_bytes_each_time(
    made_up_database: Path, made_up_comparison: tuple[Path, Outcome], tmp_path: Path
):
    folder, outcome = made_up_comparison
    build_size_comparison(made_up_database, tmp_path)
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)
    listed = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert {entry["title"] for entry in listed} == {figure.title for figure in FIGURES}
    assert [entry["method"] for entry in listed if entry["name"].startswith("specificity")] == ["proxy", "proxy"]
    assert len(files) == 2 * len(listed) + 2 and TABLE in files
    assert outcome.metadata["explained_variance (64)"] == 0.8 and outcome.metadata["figures_without_rows"] == "none"


def test_figures_without_rows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comparison_module, "FIGURES", [figure for figure in FIGURES if figure.name in ("masked", "steering")])
    tables = synthetic_tables()
    tables["steering_scores"] = tables["steering_scores"].clear()
    database = write_synthetic_analysis(tmp_path / "analysis.duckdb", tables)
    outcome = build_size_comparison(database, tmp_path / "work")
    assert outcome.metadata["figures_without_rows"] == "Steering: dose and effect"
    assert sorted(file.name for file in (tmp_path / "work" / "figures").iterdir()) == ["masked.dark.png", "masked.light.png"]


def test_a_chosen_feature_gets_its_density_in_every_size_and_in_the_report(
    made_up_comparison: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(comparison_module, "FIGURES", [])  # the chosen ones are of another kind
    tables = synthetic_tables()
    scores = tables["specificity_scores"]
    close = scores.filter(kind="active", control="none", unit_id=2).with_columns(
        kind=pl.lit("close_look"), example_id=pl.col("example_id") + 100_000, score=pl.lit(3, pl.Int8)
    )
    tables["specificity_scores"] = pl.concat([scores, close])
    database = write_synthetic_analysis(tmp_path / "analysis.duckdb", tables)
    compared, reported = tmp_path / "comparison", tmp_path / "report"
    compared.mkdir()
    reported.mkdir()
    build_size_comparison(database, compared)
    # A feature that was looked at closely weighs no more in the means than the others.
    both = (compared, made_up_comparison[0])
    means = [pl.read_parquet(each / TABLE).filter(pl.col("metric") != "mean_score_close_look") for each in both]
    assert means[0].equals(means[1])
    entries = json.loads((compared / "figures.json").read_text(encoding="utf-8"))
    names = [entry["name"] for entry in entries if entry["name"].startswith("chosen")]
    assert names == [f"chosen-{size}-2-proxy" for size in SIZES]
    assert all((compared / figure_file(name, theme)).stat().st_size > 1000 for name in names for theme in THEMES)
    build_report(database, compared, reported)
    page = (reported / REPORT).read_text(encoding="utf-8")
    assert all(f"{size}/2: its activations, by specificity score" in page for size in SIZES)
