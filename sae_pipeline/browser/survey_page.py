"""`/survey`: the paper's results row by row, the tables behind them, and their figures."""

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sae_pipeline.browser.feature_page import NotFound
from sae_pipeline.browser.parameters import Refused
from sae_pipeline.browser.state import State
from sae_pipeline.report.survey import VERDICTS, figure_file
from sae_pipeline.stages import STAGES
from sae_pipeline.tables.schemas import TABLES

ROWS_PER_PAGE = 100


def survey_page(request: Request, state: State) -> Response:
    """The checklist, optionally only the rows of one `verdict`."""
    wanted = request.query_params.get("verdict") or ""
    with state.database.cursor() as cursor:
        found = cursor.rows(VERDICTS)
    counts: dict[str, int] = {}
    for row in found:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    if counts and wanted and wanted not in counts:
        raise Refused(f"No row has the verdict {wanted[:40]!r}; there are {', '.join(counts)}.")
    shown = [row for row in found if wanted in ("", row["verdict"])]
    figures = {row["figure"] for row in found if row["figure"] and figure_file(state.root, row["stage"], row["figure"], "light")}
    return state.page("survey.html", rows=shown, counts=counts, wanted=wanted, n_rows=len(found), figures=figures)


def rows_page(request: Request, state: State) -> Response:
    """One table of the survey, as the verdicts name it, a page at a time."""
    name = request.path_params["table"]
    if name not in survey_tables():
        raise NotFound
    page = max(1, _whole(request.query_params.get("page")))
    with state.database.cursor() as cursor:
        # The name is one of ours; values never go into the text of a query.
        (counted,) = cursor.rows(f"select count(*) as n from {name}")
        found = cursor.rows(
            f"select * from {name} order by {', '.join(TABLES[name].key)} limit $n offset $first",
            n=ROWS_PER_PAGE, first=(page - 1) * ROWS_PER_PAGE,
        )  # fmt: skip
    n_pages = max(1, -(-counted["n"] // ROWS_PER_PAGE))
    return state.page("survey_rows.html", table=TABLES[name], rows=found, n=counted["n"], page=page, n_pages=n_pages)


def survey_figure(request: Request, state: State) -> Response:
    """A figure that a stage of the survey drew."""
    stage, figure, theme = (request.path_params[part] for part in ("stage", "figure", "theme"))
    if stage not in STAGES or not STAGES[stage].in_survey or not figure.isidentifier() or theme not in ("light", "dark"):
        raise NotFound
    file = figure_file(state.root, stage, figure, theme)
    if file is None:
        raise NotFound
    return FileResponse(file, media_type="image/png")


def survey_tables() -> set[str]:
    """Tables whose rows the pages may list: those of the survey's stages, and those of the main run that verdicts name."""
    own = {name for name, table in TABLES.items() if (stage := table.file.split("/")[0]) in STAGES and STAGES[stage].in_survey}
    main = {
        "sae_metrics", "sae_metrics_by_source", "specificity_scores", "explanation_scores", "steering_features",
        "training_history", "feature_examples",
    }  # fmt: skip
    return own | main | {"survey_measurements"}


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 9 else 1
