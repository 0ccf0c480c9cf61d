"""The exported site: every link leads to a file of the folder, nothing else is a link, nothing is loaded from elsewhere."""

from pathlib import Path

import pytest

from sae_pipeline.browser.export import export_site, parse_features
from sae_pipeline.browser.feature_data import FeatureKey
from sae_pipeline.errors import UserError
from sae_pipeline.study import Study
from tests.browser.test_pages import Page
from tests.synthetic_analysis import SIZES


def test_every_link_of_every_page_is_a_file_of_the_folder(browsed: tuple[Study, Path], tmp_path: Path):
    keys = [FeatureKey(size, feature) for size in SIZES for feature in range(12)]
    assert export_site(browsed[0], browsed[1], tmp_path / "site", keys) == len(keys)
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) == len(keys) + 1
    reached = set()
    for file in pages:
        text = file.read_text(encoding="utf-8")
        page = Page(text)
        assert "<script" not in text and "http:" not in text and "https:" not in text
        for value in page.values("href", "src", "action"):
            if value.startswith("#"):
                continue
            target = (file.parent / value).resolve()
            assert target.is_file() and target.is_relative_to(tmp_path / "site"), (file, value)
            reached.add(target)
    assert {file.resolve() for file in pages} <= reached, "a page that nothing links to"


def test_the_page_says_the_same_as_the_server(browsed: tuple[Study, Path], tmp_path: Path, client):
    export_site(browsed[0], browsed[1], tmp_path / "site", [FeatureKey(32, 1)])
    exported = Page((tmp_path / "site" / "32" / "1.html").read_text(encoding="utf-8")).text
    served = Page(client.get("/32/1").text).text
    for heading in ("Activations", "Strongest examples", "Scores beside their controls", "Steering", "Nearest features"):
        assert heading in exported
    assert exported.split("Scores beside their controls")[1][:400] == served.split("Scores beside their controls")[1][:400]
    assert "Steer with it" not in exported and "context" not in exported


def test_without_a_choice_the_best_steerable_features_are_exported(browsed: tuple[Study, Path], tmp_path: Path):
    assert export_site(browsed[0], browsed[1], tmp_path / "site") == 6
    assert (tmp_path / "site" / "64" / "2.html").is_file()


def test_mistakes_are_named_and_nothing_is_written(browsed: tuple[Study, Path], tmp_path: Path):
    study, root = browsed
    with pytest.raises(UserError, match="no feature 32/99"):
        export_site(study, root, tmp_path / "site", [FeatureKey(32, 99)])
    assert not (tmp_path / "site").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not an empty folder"):
        export_site(study, root, tmp_path / "full")
    assert parse_features("32/1, 64/2,") == [FeatureKey(32, 1), FeatureKey(64, 2)]
    with pytest.raises(UserError, match="is not size/feature"):
        parse_features("32-1")
