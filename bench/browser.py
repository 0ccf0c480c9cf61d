"""How fast the feature browser answers with a large study: 65,536 features, 2 million example rows (made up).

    python bench/browser.py            about a minute, 2 GB of scratch space

Prints median and worst of each request, cold (a new server process' first request of that kind) and warm, with the machine.
"""

import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import torch
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.browser.server import serving
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import Study, parse_study
from sae_pipeline.tables.schemas import TABLES, empty
from sae_pipeline.tables.views import create_views

SIZE, D_MODEL, N_EXAMPLES, WINDOW = 65_536, 576, 32, 33
ORIGIN = "http://127.0.0.1:3001"
N_WARM = 15
ZOOMS = """async () => {
  const canvas = document.querySelector("#map canvas"), box = canvas.getBoundingClientRect(), found = [];
  for (let turn = 0; turn < 20; turn++) {
    const started = performance.now();
    const place = { clientX: box.left + 400, clientY: box.top + 300 };
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: turn % 2 ? 60 : -60, cancelable: true, ...place }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    canvas.getContext("2d").getImageData(0, 0, 1, 1); // the drawing is over when a pixel can be read
    found.push(performance.now() - started);
  }
  return found;
}"""
FILL = f"""
    insert into features select {SIZE}, i, true, 1e-5 * (1 + hash(i) % 2000), 0.001, 500, 80, 10, 3, 40, 'word' || i % 997, 0.4
        from range({SIZE}) t(i);
    insert into feature_intervals select {SIZE}, i, split, j, 1 + hash(i, j) % 500
        from range({SIZE}) t(i), (values ('train'), ('held_out')) s(split), range(1, 11) u(j) order by i, split, j;
    insert into feature_examples select {SIZE}, i, if(j < 20, 'top', 'interval'), 'train', 1 + j % 10, 1 + j, hash(i, j) % 1000,
            hash(i, j) % 400000, 7, 16, list_transform(range({WINDOW}), lambda x: (hash(i, j, x) % 49152)::int),
            list_transform(range({WINDOW}), lambda x: ' word' || (hash(i, j, x) % 9973)),
            list_transform(range({WINDOW}), lambda x: if(x = 16, 9.0, 0.0)::float), 9.0
        from range({SIZE}) t(i), range({N_EXAMPLES}) u(j) order by i, j;
    insert into feature_logits select {SIZE}, i, sign, j, hash(i, j) % 49152, 'token' || hash(i, j) % 9973, 1.0
        from range({SIZE}) t(i), (values ('+'), ('-')) s(sign), range(1, 11) u(j) order by i, sign, j;
    insert into explanations select {SIZE}, 'sae_feature', i, i, 'none', 'token-stats', null,
            'Fires on word' || i % 997 || ', mostly after word' || hash(i) % 9973, 'token', null, 'ok', null, 20, 0, null, false
        from range({SIZE}) t(i);
    insert into feature_neighbours select {SIZE}, i, {SIZE}, j, (hash(i, j) % {SIZE})::int, 1.0 - j / 20.0
        from range({SIZE}) t(i), range(1, 16) u(j) order by i, j;
    insert into feature_map select {SIZE}, i, 10 * sin(i) + (hash(i) % 1000) / 500, 10 * cos(i * 1.3) + (hash(i, 7) % 1000) / 500
        from range({SIZE}) t(i);
    insert into documents select i, 'source ' || i % 7, 'English', 'document ' || i, 'train', 100, 20, 'text'
        from range(1000) t(i);
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = make_study(root)
        print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, DuckDB {duckdb.__version__}")
        pages = [f"/{SIZE}/{feature}" for feature in range(100, SIZE, SIZE // N_WARM)]
        report("feature page, cold server", [timed(study, root, [page])[0] for page in pages[:5]])
        report("feature page, warm", timed(study, root, ["/features", *pages])[1:])
        report("first table of features (builds the search table)", [timed(study, root, ["/features"])[0] for _ in range(3)])
        searches = [f"/features?q=word{number}&sort=density&order=down" for number in range(7, 7 + N_WARM)]
        meant = [f"/features?q=word{number}&source=source+{number % 7}&kind=token" for number in range(N_WARM)]
        report("search with filters", timed(study, root, ["/features", *meant])[1:])
        report("points of the map, all 65,536", timed(study, root, ["/features", *["/map/points.json"] * 3])[1:])
        chromium = shutil.which("chromium")
        if chromium:
            for size in (16_384, SIZE):
                report(f"frame of the map while it is zoomed, {size:,} points", frames(study, root, chromium, size))
        report("search", timed(study, root, ["/features", *searches])[1:])


def timed(study: Study, root: Path, paths: list[str]) -> list[float]:
    """Seconds of each request to one new server, in order."""
    seconds = []
    with TestClient(create_app(study, root), base_url=ORIGIN) as client:
        for path in paths:
            started = time.perf_counter()
            answer = client.get(path)
            seconds.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text[:200]
    return seconds


def frames(study: Study, root: Path, chromium: str, n_points: int) -> list[float]:
    """Seconds from the turn of the wheel to the end of the next frame, in headless Chromium without a GPU."""
    from playwright.sync_api import sync_playwright

    with serving(study, root, port=3461) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        columns = ("size", "feature", "x", "y")

        def shortened(route: Any) -> None:
            points = route.fetch().json()
            points |= {name: points[name][:n_points] for name in columns}
            for colouring in points["colourings"].values():
                colouring["of"] = colouring["of"][:n_points]
            route.fulfill(json=points)

        page.route("**/map/points.json", shortened)
        page.goto(f"{address}map")
        page.locator("#in-view li").first.wait_for(timeout=60_000)
        found = page.evaluate(ZOOMS)
        browser.close()
    return [milliseconds / 1e3 for milliseconds in found]


def report(what: str, seconds: list[float]) -> None:
    print(f"{what:52s} median {1e3 * statistics.median(seconds):6.0f} ms   worst {1e3 * max(seconds):6.0f} ms   n {len(seconds)}")


def make_study(root: Path) -> Study:
    """The study, its made-up database and a random SAE."""
    study = parse_study({
        "name": "large", "model": {"source": "folder", "path": "nowhere"}, "hook": {"after_block": 0}, "sae": {"sizes": [SIZE]},
        "corpus": {"sources": [{"kind": "builtin", "name": "dialogues", "tokens": 1000}]},
    })  # fmt: skip
    folder = root / study.name
    folder.mkdir()
    with duckdb.connect(str(folder / "analysis.duckdb")) as connection:
        for name in [name for name, table in TABLES.items() if table.in_database]:
            connection.register("incoming", empty(name).to_arrow())
            connection.execute(f"create table {name} as select * from incoming").fetchall()
        create_views(connection)
        for statement in FILL.split(";"):
            if statement.strip():
                connection.execute(statement).fetchall()
        print("example rows:", connection.execute("select count(*) from feature_examples").fetchall()[0][0])
    rows_FD = torch.nn.functional.normalize(torch.randn(SIZE, D_MODEL, generator=torch.Generator().manual_seed(0)), dim=1)
    weights = {
        "W_enc_FD": rows_FD, "b_enc_F": torch.zeros(SIZE), "W_dec_FD": rows_FD.clone(), "b_dec_D": torch.zeros(D_MODEL),
        "threshold_F": torch.ones(SIZE), "mean_D": torch.zeros(D_MODEL),
    }  # fmt: skip
    config = {"architecture": "batch_topk", "n_features": SIZE, "d_model": D_MODEL, "scale": 1.0, "threshold_norm": 1e6}
    SparseAutoencoder(weights, config).save(folder / "sae" / str(SIZE))
    return study


if __name__ == "__main__":
    main()
