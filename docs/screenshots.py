"""Pictures of the feature browser for the README: `make screenshots`, after `make run` and `make survey`.

Serves the study, opens its own pages in headless Chromium, writes docs/images/*.png (palette PNGs, so that they stay small).
"""

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from sae_pipeline.browser.server import serving
from sae_pipeline.study import load_study

OUT = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1180, 760
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
TEXT = "The Golden Gate Bridge is in San Francisco. Its towers stand 227 metres above the water."


def main() -> None:
    study = load_study(os.environ.get("SAE_PIPELINE_STUDY", "studies/demo.yaml"))
    chromium = shutil.which("chromium") or sys.exit("Chromium is needed: apt-get install chromium")
    OUT.mkdir(exist_ok=True)
    with serving(study, port=3401) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, base_url=address)
        page = context.new_page()
        page.goto("/")
        save(page, "start")
        page.goto(f"/features?sort=specificity&order=down&size={study.sae.sizes[-1]}")
        save(page, "features")
        page.goto(f"/features?sort=specificity&order=down&size={study.sae.sizes[-1]}&language=English")
        page.locator(".list .id").first.click()
        save(page, "feature", height=1500)
        page.goto("/")
        page.get_by_role("link", name="Steer with it").first.click()
        page.get_by_role("button", name="Write").click()
        page.get_by_text("Done.").wait_for(timeout=300_000)
        save(page, "steer")
        page.goto("/map?colour=size")
        if page.locator("#map").count():
            page.locator("#in-view li").first.wait_for(timeout=60_000)
            save(page, "map", height=900)
        else:
            print("no picture of the map: run `make survey` first")
        page.goto("/")
        feature = page.locator(".cards .id").first.inner_text()
        page.goto(f"/compare?of={feature}")
        save(page, "compare", height=1000)
        page.goto("/text")
        page.get_by_label("Text").fill(TEXT)
        page.get_by_role("button", name="Read it").click()
        page.locator(".read summary").nth(3).click()
        save(page, "text")
        page.goto("/attribute")
        page.get_by_role("button", name="Attribute", exact=True).click()
        page.get_by_role("heading", name="Tokens and features").wait_for(timeout=60_000)
        page.locator("button.cell").first.click()
        page.get_by_text("the feature's effect is").wait_for(timeout=60_000)
        save(page, "attribute", height=1000)
        page.goto("/survey")
        if page.locator("#row-1").count():
            save(page, "survey", height=900)
        else:
            print("no picture of the survey: run `make survey` first")
        browser.close()


def save(page: Page, name: str, height: int = HEIGHT) -> None:
    """The top of the page as it stands."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(160, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    print(OUT / f"{name}.png")


if __name__ == "__main__":
    main()
