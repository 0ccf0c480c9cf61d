"""A judge that passes its calibration, through a whole run: explanations with logit effects, scores, figures, report.

The scripted judge reads nothing but the question. It explains a unit by tokens that are marked more often than not, and rates
a place by whether, and how near, the text has a word that the description names or that it knows to belong to it.
"""

import html
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml
from PIL import Image

from sae_pipeline.interpret.prompts import load_prompt
from tests.conftest import FinishedStudy
from tests.fakes.messages_api import FakeMessagesApi

# A whole judged run, and an SAE trained for it: about a minute.
pytestmark = pytest.mark.long

MODEL = "claude-haiku-5-5"
METHOD = "rubric-v1-of-llm-logits-v1"
MARKED, NEAR, N_WORDS = re.compile(r"«([^»]*)»"), 2, 40
EXAMPLE = re.compile(r"<example[^>]*>(.*?)</example>", re.DOTALL)
# What the descriptions of the labels made by hand are about, as far as a dictionary goes.
KNOWN = {
    "islands": ["Crete", "ferry"],
    "function definition": ["def"],
    "family": ["grandmother", "uncle", "mother"],
    "Military": ["army", "navy", "force", "defence"],
    "gratitude": ["Thanks", "Thank"],
    "years": ["1848"],
    "brackets": [")"],
}


def named(description: str) -> list[str]:
    """The words that a description is about."""
    known = [word for about, words in KNOWN.items() if about in description for word in words]
    return known + re.findall(r"'([^']+)'", description)


def rating(words: list[str], text: str) -> int:
    """0 to 3, by how near to the highlighted token a word stands."""
    before, rest = text.split("«")
    inside, after = rest.split("»")
    if inside.strip() in words:
        return 3
    around = [(word, place) for side in (before.split()[::-1], after.split()) for place, word in enumerate(side)]
    distances = [place for other, place in around if len(other) > 2 and other.strip(".,") in words]
    return 0 if not distances else 2 if min(distances) <= NEAR else 1


def judge(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question of any of the prompts."""
    user, system = body["messages"][0]["content"], body["system"]
    if system.startswith("You describe"):
        # Those that are marked more often than they stand there unmarked.
        marks = Counter(mark.strip() for mark in MARKED.findall(user))
        beside = Counter(MARKED.sub(" ", user).split())
        single = [word for word in marks if word and " " not in word and marks[word] > max(1, beside[word])]
        special = sorted(single, key=lambda word: (-marks[word], word))
        words = ", ".join(f"'{word}'" for word in special[:N_WORDS])
        return {"evidence": "as marked", "explanation": f"Pieces such as {words}.", "kind": "token", "confidence": "medium"}
    words = named(user.split("</description>")[0])
    if system.startswith("You write"):
        return {f"text_{i}": f"the {' and '.join(words)} of {i}" for i in range(1, 6)}
    answers: dict[str, Any] = {}
    for i, text in enumerate(EXAMPLE.findall(user), 1):
        if system.startswith("You rate"):
            answers[f"example_{i}"] = {"evidence": MARKED.findall(text)[0], "score": rating(words, text)}
        else:
            there = rating(words, text) == 3 if "«" in text else any(word in text for word in words)
            answers[f"example_{i}"] = {"sure": 3 if there else 0}
    return answers


class Believed:
    """The run, and what it asked."""

    def __init__(self, study: FinishedStudy, api: FakeMessagesApi, done: tuple[int, str, str]) -> None:
        self.study, self.done = study, done
        self.asked = [body for body in api.sent() if body is not None]

    @property
    def chosen(self) -> int:
        """The feature that was looked at closely."""
        (row,) = self.rows("select distinct feature from specificity_scores where kind = 'close_look'")
        return row["feature"]

    def rows(self, query: str) -> list[dict[str, Any]]:
        with duckdb.connect(str(self.study.store.root / "analysis.duckdb"), read_only=True) as connection:
            return connection.sql(query).pl().to_dicts()


@pytest.fixture(scope="module")
def believed(finished_study, tmp_path_factory) -> Iterator[Believed]:
    """The finished tiny study goes on with a judge, and with sparser features: of dense ones a list of words says little."""
    study = finished_study.at(Path(copytree(finished_study.folder, tmp_path_factory.mktemp("believed") / "copy")))
    mapping = yaml.safe_load(study.file.read_text(encoding="utf-8"))
    mapping["sae"] |= {"sizes": [32], "k": 2, "epochs": 6}
    mapping["explain"] = {"method": "llm", "n_judged": 14, "logit_effects": True}
    mapping["score"] |= {"method": "rubric", "n_features": 14, "n_controls": 14, "examples_per_call": 20}
    mapping["score"] |= {"chosen": 1, "examples_per_chosen": 60}
    mapping["steer"] |= {"n_features": {"other": 1}, "factors": [0, 1], "max_new_tokens": 2}
    with FakeMessagesApi(key="sk-believed") as api, pytest.MonkeyPatch.context() as patch:
        api.answer = judge
        mapping["judge"] = {"backend": "anthropic", "model": MODEL, "base_url": api.url, "budget_usd": 5.0}
        study.file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
        patch.setenv("ANTHROPIC_API_KEY", "sk-believed")
        yield Believed(study, api, study.command("run"))


def test_the_judge_passes_and_its_numbers_are_headlines(believed):
    assert believed.done[0] == 0, believed.done[2]
    (verdict,) = believed.rows("select * from judge_calibration")
    assert verdict["passed"] and verdict["reasons"] == "" and verdict["n_labels_answered"] == verdict["n_labels"]
    assert verdict["label_kappa"] > 0.8 and verdict["repeat_kappa"] == 1 and verdict["matched_minus_shuffled_low"] > 0
    facts = believed.study.store.manifest("specificity_scores", 32).metadata
    assert facts["judge_passed_calibration"] and "judge_withheld_because" not in facts
    # Counted anew from the rows: what stands as a headline is what was scored.
    (mean,) = believed.rows(
        f"select avg(score) as own from specificity_scores where method = '{METHOD}' and control = 'none' and kind = 'active'"
    )
    assert facts["judge_mean_none_active"] == pytest.approx(mean["own"])
    assert facts["judge_matched_minus_shuffled_low"] > 0 and facts["judge_n_scored"] == facts["judge_n_attempted"] > 200
    # The proxy's agreement with the judge stands beside.
    assert verdict["n_proxy_pairs"] > 50 and verdict["proxy_kappa"] is not None


def test_views_and_comparison_show_the_judge_beside_the_proxy(believed):
    by_interval = believed.rows("select * from specificity_by_interval")
    assert {row["method"] for row in by_interval} == {"proxy", METHOD}
    judged = [row for row in by_interval if row["method"] == METHOD]
    assert sum(row["difference"] * row["n_features"] for row in judged) > 0
    board = believed.rows(f"select * from explainer_leaderboard where scorer = '{MODEL}'")
    assert {row["method"] for row in board} == {"llm-logits-v1", "token-stats"}
    assert {"none", "shuffled", "random_direction", "mlp_neuron", "random_model"} <= {row["control"] for row in board}
    assert all(0 < row["n_scored"] <= row["n_attempted"] for row in board if row["metric"] == "judge_detection_answered")
    (own,) = [r for r in board if (r["metric"], r["method"], r["control"]) == ("judge_fuzzing_auroc", "llm-logits-v1", "none")]
    assert own["minus_shuffled"] > 0 and own["low"] <= own["mean"] <= own["high"]
    comparison = pl.read_parquet(believed.study.store.path("size_comparison") / "size_comparison.parquet")
    shown = comparison.filter(subject="specificity", metric="mean_score", method=METHOD)
    assert {"none", "shuffled"} <= set(shown["control"]) and shown.filter(control="none")["value"][0] is not None


def test_explanations_with_logit_effects_were_asked_for_with_the_tokens_that_are_promoted(believed):
    asked = [body for body in believed.asked if body["system"] == load_prompt("explain-logits-v1").text]
    promoted = [re.findall("<promoted>(.*)</promoted>", body["messages"][0]["content"]) for body in asked]
    # The features have them; controls have none, so they are asked without.
    explained = believed.rows("select * from explanations where method = 'llm-logits-v1'")
    n_features = sum(row["unit"] == "sae_feature" and row["status"] == "ok" for row in explained)
    assert 0 < n_features == sum(map(bool, promoted)) < len(promoted) == sum(row["status"] == "ok" for row in explained)
    assert not any(body["system"] == load_prompt("explain-v1").text for body in believed.asked)
    sha = load_prompt("explain-logits-v1").sha
    row = next(row for row in explained if row["feature"] == believed.chosen and row["unit"] == "sae_feature")
    assert row["prompt_sha"] == sha and row["model"] == MODEL and row["text"].startswith("Pieces such as '")
    # They are among the strongest of the published table, each feature's own.
    logits = believed.rows(
        "select feature, list(token) as tokens from feature_logits where size = 32 and sign = '+' group by all"
    )
    tables = [set(map(repr, each["tokens"])) for each in logits]
    shown = [set(html.unescape(tokens[0]).split(", ")) for tokens in promoted if tokens]
    assert all(any(len(tokens & table) >= 0.8 * len(tokens) for table in tables) for tokens in shown) and len(shown) > 3


def test_the_report_shows_headline_leaderboard_and_the_density_of_the_chosen_feature(believed):
    folder = believed.study.store.path("size_comparison")
    name = f"chosen-32-{believed.chosen}-{METHOD}"
    drawn = {entry["name"]: entry for entry in json.loads((folder / "figures.json").read_text(encoding="utf-8"))}
    assert drawn[name]["method"] == METHOD and {f"specificity-{METHOD}", f"specificity_difference-{METHOD}"} <= set(drawn)
    picture = folder / "figures" / f"{name}.light.png"
    with Image.open(picture) as image:
        levels = {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}
    assert len(levels) > 4
    close = believed.rows(f"select score, count(*) as n from specificity_scores where method = '{METHOD}' and kind = 'close_look'"
                          " group by score order by score")  # fmt: skip
    assert sum(row["n"] for row in close) > 20 and {row["score"] for row in close} <= {0, 1, 2, 3}
    page = (believed.study.store.path("report") / "report.html").read_text(encoding="utf-8")
    assert f"Judge {MODEL} at 32 features\npassed its calibration" in page and "failed its calibration" not in page
    assert b64encode(picture.read_bytes()).decode() in page
    assert f"32/{believed.chosen}: its activations, by specificity score" in page
    specificity = page[page.index('id="specificity"') : page.index('id="steering"')]
    assert "judge detection auroc" in specificity and f'<td class="text">{MODEL}</td>' in specificity
