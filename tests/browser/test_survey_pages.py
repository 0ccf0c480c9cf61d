"""The survey's pages, in the browser and as a file: every row, its numbers, its table and its figure; hostile text stays text."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.report.survey import families, survey_page
from sae_pipeline.survey.build_verdicts import build_verdicts
from sae_pipeline.survey.checklist import read_checklist
from sae_pipeline.survey.measurement import Measurement, write_measurements
from tests.browser.conftest import ORIGIN
from tests.browser.world import make_world
from tests.synthetic_analysis import SCRIPT

WINS = "a_null_that_wins"  # no row of the checklist asks for it
PNG = b"\x89PNG not really"


def measured(work: Path) -> None:
    """One number for whatever the checklist asks: 0.25 beside a control of 0.125."""
    names = sorted({need.measurement for section in read_checklist() for row in section.rows for need in row.needs})
    write_measurements(
        work, "steering_comparison",
        [
            Measurement(
                name, "a metric", 0.25, 3, 4, low=0.2, high=0.3, control="random_direction", control_value=0.125, why=SCRIPT,
                difference_low=0.1, difference_high=0.15, rows="survey_measurements", figure="methods",
            )
            for name in names
        ] + [Measurement(WINS, SCRIPT, 0.38, 39, 40, size=64, control="principal_components", control_value=0.48)],
    )  # fmt: skip
    build_verdicts([work], work)


@pytest.fixture(scope="module")
def surveyed(tiny_model_folder, tiny_text_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("surveyed")
    study = make_world(tiny_model_folder, tiny_text_folder, root)
    folder = root / study.name
    work = folder / "steering_comparison"
    work.mkdir()
    measured(work)
    for theme in ("light", "dark"):
        (work / f"methods.{theme}.png").write_bytes(PNG)
    with duckdb.connect(str(folder / "analysis.duckdb")) as connection:
        for table, file in (("survey_verdicts", "survey_verdicts"), ("survey_measurements", "measurements")):
            connection.execute(f"delete from {table}").fetchall()
            connection.execute(f"insert into {table} by name select * from read_parquet('{work / file}.parquet')").fetchall()
    with TestClient(create_app(study, root), base_url=ORIGIN, headers={"origin": ORIGIN}) as client:
        yield client, folder, pl.read_parquet(work / "survey_verdicts.parquet")


def test_every_row_stands_on_the_page_with_value_control_threshold_and_verdict(surveyed):
    client, _, verdicts = surveyed
    page = client.get("/survey").text
    assert all(f'id="row-{row}"' in page for row in range(1, 73))
    assert page.count("0.125 random direction") == 72 and page.count("n 3 / 4") == 72
    n_by_construction = verdicts["control_by_construction"].drop_nulls().len()
    assert page.count("control by construction: ") == n_by_construction > 0
    assert SCRIPT not in page and "&lt;script&gt;" in page
    for verdict, n in verdicts.group_by("verdict").len().iter_rows():
        only = client.get(f"/survey?verdict={verdict}").text
        assert only.count('id="row-') == n and f"{n} {verdict}" in only


def test_rows_and_figures_can_be_opened_and_nothing_else(surveyed):
    client, _, verdicts = surveyed
    page = client.get("/survey/rows/survey_verdicts").text
    assert page.count("<tr>") == 1 + len(verdicts) and "&lt;script&gt;" in page and SCRIPT not in page
    first = client.get("/survey/rows/survey_measurements").text
    assert "page 1 of 2" in first and first.count("<tr>") == 1 + 100
    assert client.get("/survey/rows/survey_verdicts?page=99").text.count("<tr>") == 0
    figure = client.get("/survey/figure/steering_comparison/methods/light.png")
    assert figure.status_code == 200 and figure.content == PNG
    for address in (
        "/survey/rows/llm_calls",
        "/survey/rows/survey_verdicts;drop",
        "/survey/figure/steering_comparison/none/light.png",
        "/survey/figure/sae/methods/light.png",
        "/survey/figure/steering_comparison/methods/other.png",
        "/survey/figure/steering_comparison/..%2f..%2fanalysis/light.png",
    ):
        assert client.get(address).status_code == 404, address


def test_the_file_holds_all_rows_and_its_figures_and_asks_for_nothing(surveyed):
    _, folder, verdicts = surveyed
    with duckdb.connect(str(folder / "analysis.duckdb"), read_only=True) as connection:
        page = survey_page(connection, folder, "browsed")
    assert page is not None and all(f'id="row-{row}"' in page for row in range(1, 73))
    assert page.count("data:image/png;base64,") == 2 and 'id="figure-methods"' in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    n = verdicts.filter(pl.col("verdict") == "reproduced").height
    assert f"{n} reproduced" in page and "existence" not in page and "says nothing about danger" in page


def test_what_no_verdict_shows_stands_beside_the_checklist(surveyed):
    _, folder, verdicts = surveyed
    with duckdb.connect(str(folder / "analysis.duckdb"), read_only=True) as connection:
        page = survey_page(connection, folder, "browsed")
        (n,) = connection.sql("select count(*) from survey_measurements").fetchall()[0]
    assert page is not None
    others = page[page.index('id="others"') : page.index('id="figures"')]
    assert "a null that wins" in others and "0.48 principal components" in others and "-0.1" in others and "39 / 40" in others
    assert others.count("<tr>") == 1 + n - verdicts["measurement"].n_unique() and SCRIPT not in others


def test_families_are_written_out_with_what_parents_and_children_stand_for(surveyed):
    _, folder, _ = surveyed
    with duckdb.connect(str(folder / "analysis.duckdb"), read_only=True) as connection:
        page = survey_page(connection, folder, "browsed")
        links = connection.sql("select parent, list(child order by child) from feature_links group by parent").fetchall()
        found = families(connection)
        (label,) = connection.sql(
            "select text from explanations where size = 64 and feature = 2 and control = 'none'"
        ).fetchall()[0]
    assert {parent: sorted(row["child"] for row in rows) for parent, rows in found.items()} == dict(links) == {0: [0, 2], 1: [1]}
    assert list(found) == [0, 1] and {row["n_children"] for row in found[0]} == {2}  # the larger family first
    assert found[0][-1]["child_label"] == label
    assert page is not None and page.count("&#8627;") + page.count("↳") == 3 and 'href="#families"' in page


def test_every_concept_stands_beside_its_null_and_its_ceiling(surveyed):
    _, folder, _ = surveyed
    row = {
        "size": 64, "concept": "emotion_sadness", "family": "emotions", "method": "geometry", "is_choice": True, "feature": 7,
        "auroc_search": 0.94, "auroc": 0.895, "low": 0.7, "high": 1.0, "null_method": "prompt_sets", "null_auroc": 0.86,
        "difference_low": -0.22, "difference_high": 0.255, "probe_auroc": 0.99, "verdict": "not found", "n_held_out": 20,
        "note": "",
    }  # fmt: skip
    frame = pl.DataFrame([row, row | {"method": "classifier", "is_choice": False, "feature": 8}])
    with duckdb.connect() as connection:
        connection.execute(f"attach '{folder / 'analysis.duckdb'}' as world (read_only)").fetchall()
        for table in ("survey_verdicts", "survey_measurements", "feature_family_members"):
            connection.execute(f"create table {table} as from world.{table}").fetchall()
        connection.register("concept_search_results", frame)
        page = survey_page(connection, folder, "browsed")
    assert page is not None and 'href="#concepts"' in page
    shown = page[page.index('id="concepts"') : page.index('id="families"')]
    assert shown.count('<th scope="row"') == 1 and "64/7" in shown and "64/8" not in shown
    for said in (
        "emotion sadness",
        "not found",
        "0.895",
        "0.7 to 1",
        "0.86<small>prompt sets",
        "0.035",
        "-0.22 to 0.255",
        "0.99",
    ):
        assert said in shown
    assert shown.count("is no danger") == 1


def test_without_verdicts_the_page_says_how_to_make_them(client):
    with duckdb.connect(":memory:") as connection:
        connection.execute("create table survey_verdicts (row int, verdict varchar)").fetchall()
        assert survey_page(connection, Path(), "x") is None
    assert client.get("/survey").status_code == 200
