"""The report: hostile text stays text, nothing is loaded from anywhere, equal data give equal bytes, the numbers are right."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sae_pipeline.plots import comparison
from sae_pipeline.plots.comparison import build_size_comparison
from sae_pipeline.report.build import REPORT, build_report
from sae_pipeline.report.tokens import level, readable, shown_tokens, visible
from sae_pipeline.store import Outcome
from tests.synthetic_analysis import SCRIPT, synthetic_tables, write_synthetic_analysis


class Page(HTMLParser):
    """Tags with their attributes, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(
    made_up_database: Path, made_up_comparison: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """(the page, the database, the comparison's folder)."""
    folder = tmp_path_factory.mktemp("report")
    build_report(made_up_database, made_up_comparison[0], folder)
    return (folder / REPORT).read_text(encoding="utf-8"), made_up_database, made_up_comparison[0]


@pytest.fixture(scope="module")
def page(report: tuple[str, Path, Path]) -> Page:
    return Page(report[0])


def test_the_page_is_well_formed_and_names_the_study(page: Page, report: tuple[str, Path, Path]):
    assert page.open == []
    assert report[1].parent.name in "".join(page.text)


def test_hostile_text_is_shown_and_never_markup(page: Page, report: tuple[str, Path, Path]):
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and SCRIPT in "".join(page.text)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search("[\u200b\u202e\x00]", report[0])


def test_nothing_is_loaded_from_anywhere(page: Page, report: tuple[str, Path, Path]):
    loads = [value for _, attributes in page.tags for name in ("src", "srcset", "href") if (value := attributes.get(name))]
    assert loads and all(value.startswith(("data:image/png;base64,", "#")) for value in loads)
    assert "http://" not in report[0] and "https://" not in report[0] and "url(" not in report[0] and "@import" not in report[0]
    policy = next(
        attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'")


def test_every_internal_link_has_its_target(page: Page):
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all(attributes["href"][1:] in targets for tag, attributes in page.tags if tag == "a" and attributes["href"])


def test_equal_data_give_equal_bytes(report: tuple[str, Path, Path], tmp_path: Path):
    outcome = build_report(report[1], report[2], tmp_path)
    assert (tmp_path / REPORT).read_text(encoding="utf-8") == report[0]
    assert outcome.metadata["steerable_features"] == 4 and outcome.metadata["sizes"] == "32, 64"


def test_scores_stand_beside_controls_with_counts_and_method(page: Page):
    text = re.sub(r"\s+", " ", "".join(page.text))
    assert "shuffled explanation" in text and "MLP neuron" in text
    assert "n 79 / 80" in text and "n 11 / 12" in text and "n is examples scored / attempted" in text
    assert "proxy without an LLM" in text and "token-stats · no LLM" in text
    assert "At 32 features, 2 of 4 tried pass" in text


def test_before_and_after_are_of_the_reporting_half_at_the_chosen_factor(page: Page):
    text = "".join(page.text)
    assert "none at 1.0" in text and "baseline at None" in text
    assert "none at 2.0" not in text


def test_a_study_without_steering_and_scores_still_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comparison, "FIGURES", [figure for figure in comparison.FIGURES if figure.name in ("masked", "steering")])
    tables = synthetic_tables()
    for name in ("steering_scores", "steering_generations", "steering_features", "specificity_scores", "explanation_scores"):
        tables[name] = tables[name].clear()
    database = write_synthetic_analysis(tmp_path / "analysis.duckdb", tables)
    (tmp_path / "comparison").mkdir()
    build_size_comparison(database, tmp_path / "comparison")
    build_report(database, tmp_path / "comparison", tmp_path)
    assert "No feature was steered" in (tmp_path / REPORT).read_text(encoding="utf-8")


@pytest.mark.parametrize(("activation", "expected"), [(0.0, 0), (0.01, 1), (5.0, 5), (10.0, 10), (25.0, 10), (-1.0, 0)])
def test_activation_levels(activation: float, expected: int):
    assert level(activation, 10.0) == expected


def test_a_feature_that_never_fired_in_training_has_no_level():
    assert level(3.0, 0.0) == 0


def test_pieces_of_a_character_are_shown_as_the_character_with_their_strongest_activation():
    tokens = ["し", "\\xe3\\x81", "\\x9f", "\\xe2", " a\\xd0", "\\xb6b", "end"]
    shown = shown_tokens(tokens, [0, 1, 4, 2, 0, 3, 0], 4.0, center=2)
    assert [token.text for token in shown] == ["し", "た", "\\xe2", " aжb", "end"]
    assert [token.activation for token in shown] == [0, 4, 2, 3, 0]
    assert [token.center for token in shown] == [False, True, False, False, False]


def test_invisible_characters_are_spelled_out():
    assert visible("a\u200bb\u202ec\n") == "a⟨U+200B⟩b⟨U+202E⟩c⏎"
    assert readable("one\ntwo\x00") == "one\ntwo⟨U+0000⟩"
    assert visible("日本 naïve") == "日本 naïve"
    assert len(visible("w" * 400)) == 81
    assert [token.center for token in shown_tokens(["a", "b"], [0, 1], 1.0, center=1)] == [False, True]
