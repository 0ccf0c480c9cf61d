"""`/steer`: write with features set by hand, unsteered and steered side by side, streamed; runs can be saved.

Saved runs go to `data/<study>/saved/`, one JSON file each, never into the analysis database.
"""

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from sae_pipeline.browser.database import Row
from sae_pipeline.browser.feature_data import FeatureKey, short_explanations
from sae_pipeline.browser.overview import best_steerable
from sae_pipeline.browser.parameters import MAX_FACTOR, MAX_STEERED, MAX_TEXT, Refused, Steering, parse
from sae_pipeline.browser.playground import Stopped
from sae_pipeline.browser.state import State
from sae_pipeline.errors import UserError

EXAMPLE_PROMPT = "What is your physical form?"
MAX_SAVED = 500


class SavedRun(Steering):
    """A run with both texts."""

    unsteered: str = Field(max_length=20_000)
    steered: str = Field(max_length=20_000)


def steer_form(request: Request, state: State) -> Response:
    """The form, filled from the URL: every setting is in it."""
    query = request.query_params
    prompt, size = query.get("prompt") or EXAMPLE_PROMPT, state.size_of(query.get("size"))
    pairs = query.getlist("f")[:MAX_STEERED]
    settings = parse(Steering, {**query, "prompt": prompt, "size": size, "features": pairs}) if pairs else None
    return _form(state, size, settings, prompt[:MAX_TEXT])


def steer_plain(form: dict[str, Any], state: State) -> Response:
    """The whole run in one answer, for browsers without script."""
    settings: Steering = parse(Steering, form)
    maxima = _maxima(state, settings)
    with state.playground.turn():
        texts = state.playground.steer(settings, maxima, lambda side, text: None, threading.Event())
    return _form(state, settings.size, settings, settings.prompt, texts)


async def steer_stream(form: dict[str, Any], state: State) -> Response:
    """Server-sent events: `{"side": 0 or 1, "text": so far}` as tokens come, then `{"done": true}`. Side 0 is unsteered."""
    settings: Steering = parse(Steering, form)
    maxima = await run_in_threadpool(_maxima, state, settings)
    state.playground.take_turn()  # Busy is answered before the stream opens; the worker below gives the turn back
    stop = threading.Event()
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

    def send(event: dict[str, Any] | None) -> None:
        if not stop.is_set():  # after that nobody reads, and the loop may be gone
            loop.call_soon_threadsafe(queue.put_nowait, event)

    def work() -> None:
        try:
            if not state.playground.is_loaded:
                send({"note": "Loading the model ..."})
            unsteered, steered = state.playground.steer(
                settings, maxima, lambda side, text: send({"side": side, "text": text}), stop
            )
            send({"done": True, "unsteered": unsteered, "steered": steered})
        except Stopped:
            pass  # nobody reads any more
        except (Refused, UserError) as error:
            send({"error": str(error)})
        except Exception:
            send({"error": "The model failed; the server's terminal says why."})
            raise
        finally:
            state.playground.give_turn_back()
            send(None)

    threading.Thread(target=work, name="steering", daemon=True).start()

    async def events() -> AsyncIterator[str]:
        try:
            while (event := await queue.get()) is not None:
                yield f"data: {json.dumps(event)}\n\n"
        finally:
            stop.set()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def save_run(form: dict[str, Any], state: State, as_json: bool) -> Response:
    """Write a run to the study's folder; equal runs are one file."""
    run: SavedRun = parse(SavedRun, form)
    folder = state.root / "saved"
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("steer-*.json"))) >= MAX_SAVED:
        raise Refused(f"There are {MAX_SAVED} saved runs already; delete some in {folder}.")
    text = json.dumps(run.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    name = f"steer-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return JSONResponse({"url": f"/saved/{name}"}) if as_json else RedirectResponse(f"/saved/{name}", 303)


def saved_page(request: Request, state: State) -> Response:
    """A saved run."""
    name = request.path_params["name"]
    file = state.root / "saved" / f"{name}.json"
    if not re.fullmatch(r"steer-[0-9a-f]{12}", name) or not file.is_file():
        raise Refused("There is no saved run of that name.")
    try:
        run: SavedRun = parse(SavedRun, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(str(file), "is damaged", "Delete it, or bring back what was saved.") from error
    return _form(state, run.size, run, run.prompt, (run.unsteered, run.steered), name)


def _form(
    state: State,
    size: int,
    settings: Steering | None,
    prompt: str,
    texts: tuple[str, str] | None = None,
    saved: str | None = None,
) -> Response:
    with state.database.cursor() as cursor:
        best = best_steerable(cursor)
        chosen = dict(settings.features) if settings else {}
        summaries = {
            row["feature"]: row
            for row in cursor.rows(
                "select feature, sweet_low, sweet_high, best_factor from steering_features where size = $size"
                " and feature in (select unnest($features))",
                size=size, features=list(chosen),
            )
        }  # fmt: skip
        lines = short_explanations(cursor, [FeatureKey(size, feature) for feature in chosen])
    rows: list[Row] = [
        {
            "key": FeatureKey(size, feature),
            "feature": feature,
            "factor": factor,
            "text": lines[FeatureKey(size, feature)],
            "sweet": summaries.get(feature),
        }
        for feature, factor in chosen.items()
    ]
    recent = sorted((state.root / "saved").glob("steer-*.json"), key=lambda file: (-file.stat().st_mtime_ns, file.name))[:10]
    return state.page(
        "steer.html", size=size, settings=settings, rows=rows, n_empty=max(1, 2 - len(rows)) if len(rows) < MAX_STEERED else 0,
        prompt=prompt, texts=texts, saved=saved, best=best, recent=[file.stem for file in recent], max_factor=MAX_FACTOR,
        max_text=MAX_TEXT,
    )  # fmt: skip


def _maxima(state: State, settings: Steering) -> dict[int, float]:
    """Training maximum of each feature to steer. Raises `Refused` for sizes and features that do not exist or never fired."""
    if settings.size not in state.sizes:
        raise Refused(f"There is no size {settings.size}; sizes are {', '.join(map(str, state.sizes))}.")
    with state.database.cursor() as cursor:
        found = cursor.rows(
            "select feature, max_activation from features where size = $size and feature in (select unnest($features))",
            size=settings.size, features=list(settings.features),
        )  # fmt: skip
    maxima = {row["feature"]: row["max_activation"] for row in found}
    for feature in settings.features:
        if feature not in maxima:
            raise Refused(f"There is no feature {settings.size}/{feature}.")
        if maxima[feature] <= 0:
            raise Refused(
                f"Feature {settings.size}/{feature} was never active in training: a multiple of its maximum is nothing."
            )
    return maxima
