"""The map of features, hovered, zoomed, recoloured, clicked and worked by keyboard."""

from playwright.sync_api import Page, expect

from tests.browser.chromium.visit import Visit


def on_screen(page: Page, key: str) -> tuple[float, float]:
    """Where the map shows a feature when all of it is in view: everything fits into 92 % of the canvas, around its middle."""
    points = page.request.get("/map/points.json").json()
    names = [f"{size}/{feature}" for size, feature in zip(points["size"], points["feature"], strict=True)]
    at, box = names.index(key), page.locator("#map canvas").bounding_box()
    assert box is not None
    middle, extent = {}, {}
    for axis in "xy":
        low, high = min(points[axis]), max(points[axis])
        middle[axis], extent[axis] = (low + high) / 2, high - low
    scale = 0.92 * min((box["width"] - 2) / extent["x"], (box["height"] - 2) / extent["y"])
    x = box["x"] + box["width"] / 2 + (points["x"][at] - middle["x"]) * scale
    return x, box["y"] + box["height"] / 2 + (points["y"][at] - middle["y"]) * scale


def test_the_map_is_hovered_zoomed_recoloured_and_clicked(visit: Visit):
    page = visit.page
    page.goto("/map")
    expect(page.locator("#in-view li")).to_have_count(10)
    legend = page.get_by_role("group", name="Groups shown on the map")
    expect(legend).to_contain_text("64 (64)")
    page.mouse.move(*on_screen(page, "32/1"))
    expect(page.locator(".map-hint")).to_contain_text("32/1 Fires on")
    page.get_by_label("Coloured by").select_option("density")
    expect(legend).to_contain_text("dead (2)")
    assert "colour=density" in page.url
    before = page.locator("#in-view li").all_inner_texts()
    x, y = on_screen(page, "32/1")
    page.mouse.move(x, y)
    page.mouse.wheel(0, -1200)
    expect(page.locator("#in-view li").first).not_to_have_text(before[0])
    page.mouse.click(x, y)  # zooming keeps what is under the pointer where it is
    expect(page.get_by_role("heading", level=1)).to_have_text("32/1")


def test_the_map_opens_around_a_feature_and_works_by_keyboard(visit: Visit):
    page = visit.page
    page.goto("/32/2")
    page.get_by_role("link", name="Its neighbourhood on the map").click()
    expect(page.get_by_role("heading", name="Around 32/2")).to_be_visible()
    expect(page.locator("#in-view li").first).to_be_visible()
    before = page.locator("#in-view li").all_inner_texts()
    page.locator("#map canvas").focus()
    for key in ("-", "-", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("#in-view ul")).not_to_have_text("".join(before))
    page.get_by_role("button", name="All").click()
    page.get_by_label("Around feature").fill("64/7")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="Around 64/7")).to_be_visible()
