"""Every flow clicked in a real browser: nothing leaves loopback, nothing complains in the console, axe finds nothing.

Screenshots stay in build/screenshots for whoever wants to look.
"""

import re
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette

from tests.browser.chromium.visit import Visit

SHOTS = Path("build/screenshots")
PAGES = {
    "start": "/", "features": "/features?sort=density&order=down", "feature": "/32/1", "dead": "/32/5", "hostile": "/32/3",
    "context": "/32/1/at/40", "compare": "/compare?of=32/2", "map": "/map", "around": "/map?around=32/2",
    "text": "/text", "attribute": "/attribute", "steer": "/steer?size=32&f=1:2", "problem": "/99/99",
}  # fmt: skip

DARK = ("start", "features", "feature", "context", "compare", "steer", "text", "around")


@pytest.mark.parametrize(("name", "look"), [*((name, "light") for name in PAGES), *((name, "dark") for name in DARK)])
def test_pages_are_accessible(chromium: Browser, address: str, name: str, look):
    visit = Visit(chromium, address, color_scheme=look)
    visit.page.goto(PAGES[name])
    SHOTS.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=SHOTS / f"{name}-{look}.png", full_page=True)
    found = Axe().run(visit.page).response["violations"]
    assert [(item["id"], [node["html"][:120] for node in item["nodes"][:3]]) for item in found] == []
    visit.context.close()
    # The page for what is not there comes with its own status, which Chromium reports as an error.
    assert visit.elsewhere == [] and (name == "problem" or visit.complaints == [])


def test_from_the_start_page_to_a_feature_and_its_neighbours(visit: Visit):
    page = visit.page
    page.goto("/")
    page.get_by_role("link", name="Browse features").click()
    page.locator(".filters [name=q]").fill("island")
    page.locator(".filters [name=size]").select_option("64")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"q=island&.*size=64"))
    page.get_by_role("link", name="64/1", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("64/1")
    page.get_by_role("link", name="2 →").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("64/2")
    page.get_by_role("link", name="← 1").click()
    page.locator("#h-near").locator("..").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_an_example_opens_and_closes_in_place(visit: Visit):
    page = visit.page
    page.goto("/32/1")
    item = page.locator(".window").first
    item.get_by_role("link", name="context").click()
    expect(item.locator(".block span")).to_have_count(32)
    item.get_by_role("link", name="context").click()
    expect(item.locator(".block")).to_have_count(0)


def test_one_click_on_the_start_page_steers_and_a_link_from_elsewhere_does_not(visit: Visit):
    page = visit.page
    page.goto("/")
    link = page.get_by_role("link", name="Steer with it").first
    address = link.get_attribute("href")
    link.click()
    expect(page.locator("[data-status]")).to_have_text("Done.", timeout=30_000)
    for side in ("0", "1"):
        expect(page.locator(f"[data-side='{side}']")).not_to_be_empty()
    page.goto(str(address))
    expect(page.get_by_role("button", name="Write")).to_be_enabled()
    page.wait_for_timeout(300)
    expect(page.locator("[data-status]")).to_have_text("")


def test_steering_streams_side_by_side_and_can_be_saved(visit: Visit):
    page = visit.page
    page.goto("/")
    page.get_by_role("link", name="Steer with it").first.click()
    expect(page.locator("[data-status]")).to_have_text("Done.", timeout=30_000)
    page.get_by_label("New tokens").fill("12")
    page.get_by_label("factor", exact=True).first.fill("3.5")
    expect(page.get_by_label("factor of feature 1")).to_have_value("3.5")
    page.locator("[name=prompt]").fill("the ship <script>alert(1)</script>")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("[data-status]")).to_have_text("Done.", timeout=30_000)
    for side in ("0", "1"):
        expect(page.locator(f"[data-side='{side}']")).not_to_be_empty()
    assert "f=1%3A3.5" in page.url and "max_new_tokens=12" in page.url
    steered = page.locator("[data-side='1']").inner_text()
    page.get_by_role("button", name="Save this run").click()
    page.get_by_role("link", name="saved").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved run")
    assert page.locator("[data-side='1']").inner_text().split() == steered.split()


def test_a_long_run_can_be_stopped(visit: Visit, app: Starlette, monkeypatch: pytest.MonkeyPatch):
    page, model = visit.page, app.state.browser.playground.model
    quick = model.decode
    monkeypatch.setattr(model, "decode", lambda ids: threading.Event().wait(0.05) or quick(ids))
    page.goto("/steer?size=32&f=1:1&max_new_tokens=200&temperature=1")
    page.get_by_role("button", name="Write").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-status]")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Write")).to_be_enabled()


def test_of_two_browsers_one_steers_and_the_other_is_told_to_wait(
    chromium: Browser, address: str, app: Starlette, monkeypatch: pytest.MonkeyPatch
):
    model = app.state.browser.playground.model
    quick = model.decode
    monkeypatch.setattr(model, "decode", lambda ids: threading.Event().wait(0.05) or quick(ids))
    first, second = Visit(chromium, address), Visit(chromium, address)
    first.page.goto("/steer?size=32&f=1:1&max_new_tokens=200&temperature=1")
    second.page.goto("/steer?size=64&f=2:1&f=3:-1&max_new_tokens=4&form=completion&positions=response&mode=add")
    first.page.get_by_role("button", name="Write").click()
    expect(first.page.locator("[data-side='1']")).not_to_be_empty()
    second.page.get_by_role("button", name="Write").click()
    expect(second.page.locator("[data-status]")).to_have_text(re.compile("working for somebody else"))
    first.page.close()  # leaving frees the model
    monkeypatch.setattr(model, "decode", quick)
    for _ in range(100):
        second.page.get_by_role("button", name="Write").click()
        expect(second.page.locator("[data-status]")).not_to_have_text("Writing ...")
        if second.page.locator("[data-status]").inner_text() == "Done.":
            break
        second.page.wait_for_timeout(50)
    expect(second.page.locator("[data-status]")).to_have_text("Done.")
    assert all(part in second.page.url for part in ("form=completion", "positions=response", "mode=add", "f=2%3A1", "f=3%3A-1"))
    for visit in (first, second):
        visit.context.close()
        assert visit.elsewhere == []


def test_filters_narrow_the_table_and_stay_in_the_address(visit: Visit):
    page = visit.page
    page.goto("/features")
    page.locator("[name=source]").select_option(index=1)
    page.locator("[name=kind]").select_option("topic")
    page.locator("[name=steered]").select_option("tried")
    page.locator("[name=life]").select_option("alive")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status")).to_contain_text("feature")
    assert all(part in page.url for part in ("source=", "kind=topic", "steered=tried", "life=alive"))
    expect(page.locator("[name=kind]")).to_have_value("topic")
    page.get_by_role("link", name="Clear", exact=True).click()
    page.locator("[name=life]").select_option("dead")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status")).to_have_text("2 features")
    page.get_by_role("link", name="density").click()
    expect(page.locator("th[aria-sort]")).to_contain_text("density")


def test_a_text_is_read_and_a_token_opens(visit: Visit):
    page = visit.page
    page.goto("/text")
    page.get_by_label("Text").fill("the ship of the island")
    page.get_by_role("button", name="Read it").click()
    expect(page.get_by_role("heading", name="Token by token")).to_be_visible(timeout=30_000)
    tokens = page.locator(".read summary")
    tokens.nth(2).click()
    expect(page.locator(".read details[open]")).to_have_count(1)
    tokens.nth(3).click()
    expect(page.locator(".read details[open]")).to_have_count(1)


def test_a_cell_of_the_attribution_grid_is_switched_off(visit: Visit):
    page = visit.page
    page.goto("/attribute?size=32")
    page.get_by_label("Prompt").fill("the ship of the island")
    page.get_by_label("Target").fill("a")
    page.get_by_label("Baseline").fill("b")
    page.get_by_role("button", name="Attribute", exact=True).click()
    expect(page.get_by_role("heading", name="Tokens and features")).to_be_visible(timeout=30_000)
    expect(page.locator("#switched")).to_contain_text("Click a cell")
    page.locator("button.cell").first.click()
    expect(page.locator("#switched")).to_contain_text("the feature's effect is", timeout=30_000)
    expect(page.locator("button.cell[aria-pressed=true]")).to_have_count(1)


def test_everything_but_the_stream_works_without_script(chromium: Browser, address: str):
    visit = Visit(chromium, address, java_script_enabled=False)
    page = visit.page
    page.goto("/features?size=32")
    page.get_by_role("link", name="32/1", exact=True).click()
    page.get_by_role("link", name="context").first.click()
    expect(page.locator(".block span")).to_have_count(32)
    page.goto("/steer?size=32&f=1:2&max_new_tokens=4")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("[data-side='1']")).not_to_be_empty(timeout=30_000)
    page.get_by_role("button", name="Save this run").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Saved run")
    visit.context.close()
    assert visit.elsewhere == [] and visit.complaints == []


def test_the_keyboard_reaches_the_content_first(visit: Visit):
    page = visit.page
    page.goto("/32/1")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
