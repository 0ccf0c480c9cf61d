"""The survey on one page: the checklist row by row, every figure inside, no request to anywhere."""

import base64
from pathlib import Path
from typing import Any

import duckdb

from sae_pipeline.plots.figure import DARK, LIGHT
from sae_pipeline.report.data import rows
from sae_pipeline.report.pages import environment

PAGE = "survey.html"
VERDICTS = "select * from survey_verdicts order by row"
N_FAMILIES = 10
# Of families of equal size those whose parent fires most often.
FAMILIES = f"""
    select * from feature_family_members
    where parent in (
        select parent from feature_family_members group by parent, n_children, parent_density
        order by n_children desc, parent_density desc, parent limit {N_FAMILIES}
    )
    order by n_children desc, parent_density desc, parent, child_size, cosine desc
"""
# What no verdict shows: nulls that tie or win among them.
OTHERS = """
    select m.* from survey_measurements m
    anti join survey_verdicts v on m.stage = v.stage and m.measurement = v.measurement and m.size is not distinct from v.size
    order by m.stage, m.measurement, m.size
"""
CONCEPTS = "select * from concept_search_results where is_choice order by concept, size"
COUNTS = "select verdict, count(*) as n from survey_verdicts group by verdict order by n desc"


def survey_page(connection: duckdb.DuckDBPyConnection, root: Path, study_name: str) -> str | None:
    """The page as text; None while there are no verdicts. `root`: folder of the study, where the stages left their figures."""
    found = rows(connection, VERDICTS)
    if not found:
        return None
    sections: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        sections.setdefault(row["section"], []).append(row)
    figures = {row["figure"]: row["stage"] for row in reversed(found) if row["figure"]}
    return environment("sae_pipeline.report").get_template("survey.html").render(
        study_name=study_name, sections=sections, counts=rows(connection, COUNTS), n_rows=len(found),
        n_with_control=sum(row["value"] is not None and row["control_value"] is not None for row in found),
        n_by_construction=sum(row["value"] is not None and row["control_by_construction"] is not None for row in found),
        families=list(families(connection).values()), others=rows(connection, OTHERS), concepts=rows(connection, CONCEPTS),
        n_as_expected=sum(row["verdict"] == row["expected"] for row in found),
        figures={name: images for name, stage in figures.items() if (images := embedded(root, stage, name))},
    )  # fmt: skip


def families(connection: duckdb.DuckDBPyConnection) -> dict[int, list[dict[str, Any]]]:
    """{feature of the smallest SAE: its children in the larger ones}, of the ten largest families."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows(connection, FAMILIES):
        found.setdefault(row["parent"], []).append(row)
    return found


def embedded(root: Path, stage: str, figure: str) -> dict[str, str]:
    """{theme: PNG as base64} of a stage's figure; of a stage per size the one of the largest size. Empty when it is not there."""
    return {
        theme.name: base64.b64encode(file.read_bytes()).decode()
        for theme in (LIGHT, DARK)
        if (file := figure_file(root, stage, figure, theme.name)) is not None
    }


def figure_file(root: Path, stage: str, figure: str, theme: str) -> Path | None:
    """Where a figure of the survey lies: in its stage's folder, or in that of the largest size."""
    folder = root / stage
    sizes = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name), reverse=True)
    files = (place / f"{figure}.{theme}.png" for place in (folder, *sizes))
    return next((file for file in files if file.is_file()), None)
