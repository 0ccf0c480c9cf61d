"""Pages over HTTP: what they show is what the tables say, hostile text stays text, what is missing says why."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from tests.browser.conftest import ORIGIN
from tests.browser.world import random_sae
from tests.synthetic_analysis import HOSTILE, SCRIPT, SIZES, synthetic_tables, write_synthetic_analysis

PAGES = [
    "/", "/features", "/features?q=ship&size=64&sort=density&order=down", "/features?life=dead", "/compare", "/text", "/steer",
    "/steer?size=32&f=1:2&f=2:-1.5", "/32/0", "/32/1", "/32/3", "/32/5", "/32/7", "/64/63", "/32/1/at/40",
    "/features?q=nothing-has-this", "/map", "/map?colour=source&around=32/2", "/map?around=64/5", "/compare?of=32/2",
    "/compare?of=64/7",
]  # fmt: skip


class Page(HTMLParser):
    """Text, attributes and whether every element is closed."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "rect", "line", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names and value is not None]


def get(client: TestClient, path: str) -> Page:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.text[:300])
    return Page(answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_well_formed_local_and_without_inline_script_or_style(client: TestClient, path: str):
    answer = client.get(path)
    page = Page(answer.text)
    assert answer.status_code == 200
    assert not any(name.startswith("on") or name == "style" for _, name, _ in page.attributes)
    scripts = re.findall("<script.*", answer.text)
    assert scripts[0].startswith('<script src="/static/browser.js" defer></script>')
    assert all(re.fullmatch(r'<script src="/static/\w+\.js" defer></script>', script) for script in scripts)
    assert all(value.startswith(("/", "#")) for value in page.values("href", "src", "action"))
    assert not re.search("[\u200b\u202a-\u202e\x00-\x08]", answer.text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby", "for", "data-copy")) <= set(ids)


def test_every_link_leads_somewhere(client: TestClient):
    links = {link for path in PAGES for link in get(client, path).values("href") if link.startswith("/")}
    assert len(links) > 80
    for link in links:
        assert client.get(link).status_code in (200, 303), link


@pytest.mark.parametrize("text", [text for text in HOSTILE if len(text.strip()) > 2 and text.isprintable()])
def test_hostile_tokens_are_shown_as_text(client: TestClient, text: str):
    everything = " ".join(get(client, f"/32/{feature}").text for feature in range(12))
    assert re.sub(r"\s+", " ", text[:60]) in everything


def test_a_feature_page_says_what_the_tables_say(client: TestClient):
    tables = synthetic_tables()
    row = next(row for row in tables["features"].to_dicts() if (row["size"], row["feature"]) == (32, 1))
    page = get(client, "/32/1")
    assert f"{row['density']:.3%}" in page.text
    scores = [
        row["score"] for row in tables["specificity_scores"].to_dicts()
        if (row["size"], row["feature"], row["control"], row["kind"]) == (32, 1, "none", "active")
    ]  # fmt: skip
    assert f"{np.mean(scores):,.2f}n {len(scores)} / {len(scores)}" in page.text
    assert "token-stats · no LLM" in page.text and "proxy without an LLM" in page.text and "shuffled explanation" in page.text
    assert "clamp at 1.0×" in page.text and "baseline at None" in page.text
    assert "/steer?size=32&f=1:1.0" in page.values("href")


def test_the_histogram_is_coloured_by_the_scores_of_each_interval(client: TestClient):
    rows = [
        row for row in synthetic_tables()["specificity_scores"].to_dicts()
        if (row["size"], row["feature"], row["control"], row["kind"]) == (32, 1, "none", "active")
    ]  # fmt: skip
    text = get(client, "/32/1").text
    for row in rows:
        assert re.search(rf"interval {row['interval']}: \d+ activations;[^i]*score {row['score']}: 1", text)


def test_neighbours_are_the_largest_cosines_within_and_across_sizes(client: TestClient):
    vector = random_sae(32).W_dec_FD[1].numpy()
    page = get(client, "/32/1")
    for size in SIZES:
        cosines = random_sae(size).W_dec_FD.numpy() @ vector
        if size == 32:
            cosines[1] = -1
        for feature in np.argsort(-cosines)[:8]:
            assert f"{size}/{feature}" in page.text and f"{cosines[feature]:.2f}" in page.text


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/32/5", "too few examples"), ("/32/5", "It was never active"), ("/32/20", "Not scored"), ("/32/7", "too few examples"),
     ("/32/20", "Not tried in this study"), ("/features?life=dead", "dead: no activation on held-out text")],
)  # fmt: skip
def test_what_is_missing_says_why(client: TestClient, path: str, reason: str):
    assert reason in get(client, path).text


def test_raw_rows_are_those_of_the_tables(client: TestClient):
    tables, raw = synthetic_tables(), client.get("/64/3.json").json()
    assert len(raw["feature_examples"]) == 10
    for name, rows in raw.items():
        column = "target_feature" if name in ("steering_scores", "steering_generations") else "feature"
        expected = [row for row in tables[name].to_dicts() if row["size"] == 64 and row[column] == 3]
        assert len(rows) == len(expected) and rows
        assert sorted(json.dumps(row, sort_keys=True) for row in rows) == sorted(
            json.dumps(row, sort_keys=True) for row in expected
        )


def test_context_shows_the_whole_block_with_the_cached_activations(client: TestClient):
    page = get(client, "/32/1/at/40")
    assert sum(name == "title" and value == "9.50" for _, name, value in page.attributes) == 1
    assert "Token 40, train" in page.text
    part = client.get("/32/1/at/40?part=1").text
    assert part.strip().startswith("<div") and part.count("<span") == 32
    assert client.get("/32/1/at/999999").status_code == 404


def test_a_database_of_another_version_says_so(browsed, tmp_path):
    study, _ = browsed
    (tmp_path / study.name).mkdir()
    tables = synthetic_tables()
    write_synthetic_analysis(tmp_path / study.name / "analysis.duckdb", {"features": tables["features"]}, views=False)
    with TestClient(create_app(study, tmp_path), base_url=ORIGIN, headers={"origin": ORIGIN}) as client:
        for path in ("/", "/32/1", "/features", "/compare", "/map", "/map/points.json"):
            answer = client.get(path)
            assert answer.status_code == 503 and "another version" in answer.text and "sae-pipeline run" in answer.text, path


def test_a_damaged_database_says_so_and_a_whole_one_is_seen_again(browsed, tmp_path):
    study, _ = browsed
    file = tmp_path / study.name / "analysis.duckdb"
    file.parent.mkdir()
    whole = write_synthetic_analysis(tmp_path / "whole.duckdb").read_bytes()
    with TestClient(create_app(study, tmp_path), base_url=ORIGIN) as client:
        for n_bytes in (len(whole) // 2, len(whole) // 3, 100, 0):
            file.write_bytes(whole[:n_bytes])
            answer = client.get("/features")
            assert answer.status_code == 503 and "sae-pipeline run" in answer.text, n_bytes
        file.write_bytes(whole)
        assert client.get("/features").status_code == 200


# --- the table of features


def found(client: TestClient, query: str) -> list[str]:
    return re.findall(r'<th scope="row"><a class="id" href="/(\d+/\d+)"', client.get("/features?" + query).text)


def test_search_filters_and_order_agree_with_the_tables(client: TestClient):
    tables = synthetic_tables()
    features = tables["features"].to_dicts()
    wanted = sorted((row for row in features if row["density"] >= 0.005), key=lambda row: -row["density"])
    assert (
        found(client, "min_density=0.005&sort=density&order=down") == [f"{row['size']}/{row['feature']}" for row in wanted][:50]
    )
    with_words = {
        f"{row['size']}/{row['feature']}" for row in tables["explanations"].to_dicts()
        if row["text"] and "ship" in row["text"].lower() and row["size"] == 32
    }  # fmt: skip
    assert with_words and set(found(client, "q=SHIP+stories&size=32")) == with_words
    assert set(found(client, "steered=passes")) == {f"{size}/{feature}" for size in SIZES for feature in (1, 2)}
    assert set(found(client, "life=dead")) == {f"{size}/5" for size in SIZES}
    assert set(found(client, "kind=topic&size=32")) == {f"32/{feature}" for feature in range(2, 32, 3) if feature != 5}


def test_search_words_are_literal(client: TestClient):
    assert found(client, "q=%25") == [] and found(client, "q=_") == []
    assert set(found(client, "q=%3Cscript%3E")) == {"32/3", "64/3"}
    assert client.get("/features", params={"q": "'; drop table features; --"}).status_code == 200
    assert found(client, "size=32")


def test_pages_of_the_table_do_not_overlap_and_end(client: TestClient):
    first, second = found(client, ""), found(client, "page=2")
    assert len(first) == 50 and len(second) == sum(SIZES) - 50 and not set(first) & set(second)
    assert found(client, "page=3") == []


def test_random_leads_to_a_living_feature_of_the_size(client: TestClient):
    places = {client.get("/random?size=64").headers["location"] for _ in range(12)}
    assert len(places) > 1 and all(place.startswith("/64/") and place != "/64/5" for place in places)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/99/0", 404), ("/32/32", 404), ("/32/99999999999", 404), ("/32/x", 404), ("/nope", 404), ("/features?min_density=7", 400),
     ("/features?sort=drop", 400), ("/features?page=0", 400), ("/features?q=" + "x" * 201, 400), ("/steer?size=32&f=1:900", 400),
     ("/steer?size=32&f=x:1", 400), ("/saved/steer-000000000000", 400), ("/saved/..%2f..%2fetc", 404),
     ("/static/../app.py", 404),
     ("/32/" + "9" * 5000, 414), ("/features?page=9", 200), ("/survey?verdict=nonsense", 200),
     ("/steer?size=" + "9" * 5000, 200), ("/steer?f=" + "9" * 5000 + ":1", 400), ("/steer?f=" + "9" * 30 + ":1", 400),
     ("/features?size=" + "9" * 30, 400),
     ("/map?around=32/99", 400), ("/map?around=%3Cb%3E", 400), ("/map?colour=red", 400), ("/compare?of=1", 400)],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_in_words(client: TestClient, path: str, status: int):
    answer = client.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_refusals_are_escaped(client: TestClient):
    answer = client.get("/features", params={"sort": SCRIPT})
    assert answer.status_code == 400 and SCRIPT not in answer.text


def test_a_score_of_zero_is_a_score_all_the_way_to_the_page(browsed):
    """Every window of one explanation scored 0: a mean of 0 from as many windows, not a missing score."""
    study, root = browsed
    with TestClient(create_app(study, root), base_url=ORIGIN) as fresh:
        with fresh.app.state.browser.database.cursor() as cursor:  # pyright: ignore[reportAttributeAccessIssue]
            found = cursor.rows(
                "select size, feature, kind, count(score) as n from specificity_scores where control = 'shuffled' and unit ="
                " 'sae_feature' group by all having max(score) = 0 and count(score) = count(*) order by size, feature limit 1"
            )
        (row,) = found
        address = f"/{row['size']}/{row['feature']}"
        zeros = [
            each for each in fresh.get(f"{address}.json").json()["specificity_scores"]
            if each["control"] == "shuffled" and each["kind"] == row["kind"] and each["score"] == 0
        ]  # fmt: skip
        assert len(zeros) == row["n"] > 0
        page = Page(fresh.get(address).text).text
    title = "specificity, 0 to 3" + ("" if row["kind"] == "active" else f" ({row['kind'].replace('_', ' ')})")
    scores = page.split("Scores beside their controls")[1].split("Steering")[0].split(title)[1]
    assert "0.00" in scores and f"n {row['n']} / {row['n']}" in scores
