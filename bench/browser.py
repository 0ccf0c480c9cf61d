"""How fast the feature browser answers with a large study: 65,536 features, 2 million example rows (made up).

    python bench/browser.py            about a minute, 2 GB of scratch space

Prints median and worst of each request, cold (a new server process' first request of that kind) and warm, with the machine.
"""

import platform
import statistics
import tempfile
import time
from pathlib import Path

import duckdb
import torch
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import Study, parse_study
from sae_pipeline.tables.schemas import TABLES, empty
from sae_pipeline.tables.views import create_views

SIZE, D_MODEL, N_EXAMPLES, WINDOW = 65_536, 576, 32, 33
ORIGIN = "http://127.0.0.1:3001"
N_WARM = 15
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
