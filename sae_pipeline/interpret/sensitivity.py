"""Sensitivity: is the feature active on new texts that somebody wrote from its explanation alone?

Specificity asks whether the concept is there when the feature is active; this asks the reverse, which the rubric cannot (Tian,
Tian & Hu 2025). The judge writes, the study's model reads and the SAE encodes. The control writes from another feature's
explanation: a feature that is active on half of all texts is not sensitive to its own.
"""

from collections.abc import Callable, Iterator, Sequence

from sae_pipeline.interpret.answers import N_TEXTS, WrittenTexts, written
from sae_pipeline.interpret.explanation_scores import MetricRow
from sae_pipeline.interpret.marked_text import escape
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.protocols import Control, Explanation
from sae_pipeline.interpret.windows import derangement
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.judge.request import Request

PROMPT = "write-v1"
MAX_TOKENS = 100 * N_TEXTS
SCORER = "sae"
FeaturesOf = Callable[[Sequence[str]], list[set[int]]]
"""Texts -> for each the features that are active on at least one of its unmasked tokens."""


def ask_for_texts(judge: AskingJudge, explanations: Sequence[Explanation], asked_by: str) -> list[tuple[list[str], str]]:
    """(texts, status) for each explanation; no texts unless the status is `ok`. One that is not `ok` is not asked about."""
    prompt = load_prompt(PROMPT)
    askable = [each for each in explanations if each.status == "ok"]
    requests = [
        Request(
            asked_by, f"{each.unit} {each.unit_id}", prompt.name, prompt.sha, prompt.text,
            f"<description>{escape(each.about_inputs)}</description>", WrittenTexts, MAX_TOKENS,
        )
        for each in askable
    ]  # fmt: skip
    replies = iter(judge.ask(requests, PROMPT))
    result: list[tuple[list[str], str]] = []
    for each in explanations:
        if each.status != "ok":
            result.append(([], each.status))
            continue
        reply = next(replies)
        result.append((written(reply.value), "ok") if reply.value else ([], reply.status))
    return result


def sensitivity_rows(
    columns: Sequence[int], texts: Sequence[tuple[list[str], str]], features_of: FeaturesOf, seed: int, plumbing: bool
) -> Iterator[MetricRow]:
    """Share of a column's texts on which its feature is active, beside the texts written for another column.

    `columns` are features and belong to `texts` one by one.
    """
    active = {column: features_of(mine) if status == "ok" else [] for column, (mine, status) in zip(columns, texts, strict=True)}
    status_of = {column: status for column, (_, status) in zip(columns, texts, strict=True)}
    ok = [column for column in columns if active[column]]
    arms: list[tuple[Control, dict[int, int]]] = [("none", {column: column for column in columns})]
    if len(ok) > 1:
        arms.append(("shuffled", derangement(ok, seed)))
    for control, other in arms:
        for column, source in other.items():
            found = active[source]
            value = sum(column in features for features in found) / len(found) if found else None
            status = "ok" if found else status_of[source]
            yield MetricRow(column, "sensitivity", control, value, len(found), status, SCORER, plumbing)  # pyright: ignore[reportArgumentType]
