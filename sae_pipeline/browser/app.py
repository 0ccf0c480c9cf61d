"""The application: routes, and one sentence for everything that goes wrong."""

import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import duckdb
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sae_pipeline.browser.attribute_page import attribute_form, attribute_page
from sae_pipeline.browser.feature_page import NotFound, context_page, feature_json, feature_page
from sae_pipeline.browser.feature_table import features_page, random_feature
from sae_pipeline.browser.map_page import hints, map_page, map_points
from sae_pipeline.browser.overview import compare_page, page_of_study, start_page
from sae_pipeline.browser.parameters import Refused
from sae_pipeline.browser.playground import Busy
from sae_pipeline.browser.security import Guard
from sae_pipeline.browser.state import STATIC, State
from sae_pipeline.browser.steer_page import save_run, saved_page, steer_form, steer_plain, steer_stream
from sae_pipeline.browser.survey_page import rows_page, survey_figure, survey_page
from sae_pipeline.browser.text_page import text_form, text_page
from sae_pipeline.errors import UserError
from sae_pipeline.study import Study

Page = Callable[[Request, State], Response]
Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    study: Study, data_root: Path | str = "data", device: str = "cpu", token: str | None = None, dagster: str | None = None
) -> Starlette:
    """The browser of one study, whose artefacts lie in `data_root/<study name>`.

    `token`: None serves loopback names only; with one, every visitor needs it. The model is loaded when it is
    first asked for. `dagster`: address of the Dagster UI, for links to it.
    """
    state = State(study, Path(data_root) / study.name, device, dagster)

    def reads(page: Page) -> Handler:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(page, request, state)

        return endpoint

    def writes(work: Callable[[dict[str, Any], State], Response]) -> Handler:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(work, await form_of(request), state)

        return endpoint

    async def stream(request: Request) -> Response:
        return await steer_stream(await form_of(request), state)

    async def save(request: Request) -> Response:
        return await run_in_threadpool(save_run, await form_of(request), state, _wants_json(request))

    @asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[None]:
        yield
        state.meaning.close()
        state.database.close()

    routes = [
        Route("/", reads(start_page)),
        Route("/features", reads(features_page)),
        Route("/random", reads(random_feature)),
        Route("/compare", reads(compare_page)),
        Route("/of/{study}/{page:path}", reads(page_of_study)),
        Route("/map", reads(map_page)),
        Route("/map/points.json", reads(map_points)),
        Route("/hints", reads(hints)),
        Route("/survey", reads(survey_page)),
        Route("/survey/rows/{table}", reads(rows_page)),
        Route("/survey/figure/{stage}/{figure}/{theme}.png", reads(survey_figure)),
        Route("/text", reads(text_form)),
        Route("/text", writes(text_page), methods=["POST"]),
        Route("/attribute", reads(attribute_form)),
        Route("/attribute", writes(attribute_page), methods=["POST"]),
        Route("/steer", reads(steer_form)),
        Route("/steer", writes(steer_plain), methods=["POST"]),
        Route("/steer/stream", stream, methods=["POST"]),
        Route("/saved", save, methods=["POST"]),
        Route("/saved/{name}", reads(saved_page)),
        Route("/{size:int}/{feature:int}.json", reads(feature_json)),
        Route("/{size:int}/{feature:int}/at/{token_index:int}", reads(context_page)),
        Route("/{size:int}/{feature:int}", reads(feature_page)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    known = (Refused, NotFound, Busy, UserError, duckdb.Error, 404, 405)
    handlers = dict.fromkeys(known, _explaining(state))
    middleware = [Middleware(Guard, token=token)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=closing)
    app.state.browser = state
    return app


async def form_of(request: Request) -> dict[str, Any]:
    """A URL-encoded form or a JSON object; `f` collects `feature:factor` pairs as `features`."""
    body = await request.body()
    try:
        if request.headers.get("content-type", "").startswith("application/json"):
            values = json.loads(body)
            if not isinstance(values, dict):
                raise Refused("The request's JSON is not an object.")
            return values
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=64)
    except (ValueError, RecursionError) as error:
        raise Refused("The request's body is not readable.") from error
    form: dict[str, Any] = {name: value for name, value in pairs if name not in ("feature", "factor", "f")}
    features = [value for name, value in pairs if name == "feature"]
    factors = [value for name, value in pairs if name == "factor"]
    form["features"] = [f"{feature}:{factor}" for feature, factor in zip(features, factors, strict=False)]
    return form


def _explaining(state: State) -> Callable[[Request, Exception], Response]:
    def explain(request: Request, error: Exception) -> Response:
        if isinstance(error, Busy):
            status, title, text = 429, "Busy", "The model is working for somebody else. Try again in a moment."
        elif isinstance(error, Refused):
            status, title, text = 400, "Not possible", str(error)
        elif isinstance(error, duckdb.Error):
            status, title = 503, "Not ready"
            missing = isinstance(error, duckdb.CatalogException | duckdb.BinderException)
            what = "is from another version of this program" if missing else "is damaged"
            text = f"{state.database.path} {what}. Run `sae-pipeline run`: it is made anew."
            traceback.print_exception(error)  # for the terminal: it may be a mistake of ours after all
        elif isinstance(error, UserError):
            status, title, text = 503, "Not ready", str(error)
        else:
            status, title, text = getattr(error, "status_code", 404), "Not found", "There is no such page."
        if _wants_json(request) or request.url.path.endswith(".json"):
            return JSONResponse({"error": text}, status)
        return state.page("problem.html", status=status, title=title, text=text)

    return explain


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")
