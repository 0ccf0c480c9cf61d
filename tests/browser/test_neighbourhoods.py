"""Neighbours, the map's data, and links between pages and Dagster."""

import pytest
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.browser.links import PAGES, page_url
from tests.browser.conftest import ORIGIN
from tests.browser.test_pages import Page, get
from tests.synthetic_analysis import synthetic_tables


def test_neighbours_come_from_the_survey_where_it_was_made(client: TestClient):
    page = get(client, "/32/2").text.split("Nearest features")[1]
    rows = synthetic_tables()["feature_neighbours"].to_dicts()
    assert rows and all(f"{row['neighbour_size']}/{row['neighbour']}" in page and f"{row['cosine']:.2f}" in page for row in rows)
    relatives = get(client, "/compare?of=32/2").text
    assert all(f"{row['neighbour_size']}/{row['neighbour']}" in relatives for row in rows)


def test_the_map_s_points_and_groups_are_those_of_the_tables(client: TestClient):
    points = client.get("/map/points.json").json()
    tables = synthetic_tables()
    places = {(row["size"], row["feature"]): (row["x"], row["y"]) for row in tables["feature_map"].to_dicts()}
    found = dict(
        zip(zip(points["size"], points["feature"], strict=True), zip(points["x"], points["y"], strict=True), strict=True)
    )
    assert found.keys() == places.keys()
    assert all(found[key] == pytest.approx(places[key], abs=1e-3) for key in places)
    for colouring in points["colourings"].values():
        assert [group["n"] for group in colouring["groups"]] == [
            colouring["of"].count(at) for at in range(len(colouring["groups"]))
        ]
        assert len(colouring["of"]) == len(places)
    by_size = points["colourings"]["size"]
    assert [group["label"] for group in by_size["groups"]] == ["64", "32"]
    assert all((size == 64) == (group == 0) for size, group in zip(points["size"], by_size["of"], strict=True))
    density = points["colourings"]["density"]
    dead = [key for key, group in zip(found, density["of"], strict=True) if density["groups"][group]["label"] == "dead"]
    assert dead == [(64, 5), (32, 5)]
    scored = points["colourings"]["specificity"]
    assert len(places) - scored["groups"][0]["n"] == 16


def test_hints_are_the_short_explanations_of_what_exists(client: TestClient):
    said = client.get("/hints?f=32/1&f=64/3&f=99/1&f=x&f=%3Cb%3E").json()
    assert set(said) >= {"32/1", "64/3"} and "island" in said["32/1"] and "x" not in said


def test_links_from_dagster_lead_to_the_page_of_their_own_study_only(client: TestClient):
    answer = client.get("/of/browsed/features?size=32&sort=density")
    assert (answer.status_code, answer.headers["location"]) == (303, "/features?size=32&sort=density")
    assert client.get("/of/browsed/").headers["location"] == "/"
    for page in ("//evil.example", "/%5Cevil.example", "%2F%2Fevil.example"):
        location = client.get("/of/browsed/" + page).headers["location"]
        assert location.startswith("/") and location[1] not in "/\\", location
    other = client.get("/of/another/features")
    assert other.status_code == 400 and "another" in other.text


def test_every_link_that_dagster_shows_leads_to_a_page(client: TestClient):
    for stage in PAGES:
        address = page_url("browsed", stage, 32)
        assert address is not None and address.startswith(f"{ORIGIN}/of/browsed/")
        page = client.get(address.removeprefix(ORIGIN))
        assert client.get(page.headers["location"]).status_code == 200, address


def test_pages_link_to_dagster_where_it_runs_beside(browsed, client: TestClient):
    study, root = browsed
    with TestClient(create_app(study, root, dagster="http://127.0.0.1:3000"), base_url=ORIGIN) as beside:
        links = Page(beside.get("/32/1").text).values("href")
        assert "http://127.0.0.1:3000/assets/feature_stats?view=partitions&partition=32" in links
        assert "http://127.0.0.1:3000/assets/corpus" in Page(beside.get("/").text).values("href")
    assert not [link for link in get(client, "/32/1").values("href") if link.startswith("http")]
