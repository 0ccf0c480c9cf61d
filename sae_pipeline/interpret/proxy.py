"""Specificity 0-3 without a language model (method `proxy`): a fixed reading of the paper's rubric (`rubric_v1.md`).

    3  the rule holds on the highlighted token itself
    2  the rule holds within `NEAR` tokens of it, or the explanation is similar to the text there
    1  the rule holds elsewhere in the window, or the explanation is similar to the window as a whole
    0  none of these

"Similar" means a MiniLM cosine above a threshold that shuffled explanations exceed on `ALPHA` of train windows. In the same way
a rule is evidence only where it says something: at each of the three distances it must hold for at most `MAX_COVERAGE` of random
train tokens (the rubric's "relative to the base distribution"). A rule that holds on the highlighted token but is broader than
that gives 1, "only vaguely related".

The scorer sees an explanation and windows. It is a proxy: it reads words and rules, not meaning, and is labelled so wherever its
numbers appear.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sae_pipeline.interpret.embedding import Parts, SentenceEmbedder
from sae_pipeline.interpret.protocols import Explanation, Score, ScoredWindow
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.windows import REACH

METHOD = "proxy"
RUBRIC = Path(__file__).with_name("rubric_v1.md")
NEAR = 5
ALPHA = 0.05
MAX_COVERAGE = {"token": 0.10, "near": 0.10, "window": 0.10}
N_COVERAGE_TOKENS = 4096


@dataclass(frozen=True)
class Calibration:
    """Cosine thresholds from train windows, and how often matched and shuffled explanations exceed them there."""

    cosine_near: float
    cosine_window: float
    n_windows: int
    n_shuffled_pairs: int
    alpha: float
    matched_rate_near: float
    matched_rate_window: float
    max_coverage: dict[str, float]
    near_tokens: int
    rubric: str

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def parts_of(index: RuleIndex, window: ScoredWindow) -> Parts:
    """The window's text split around the near text."""
    first, last = max(window.token_index - NEAR, window.first), min(window.token_index + NEAR, window.last)
    text = index.tokens.text
    return text(window.first, first - 1), text(first, last), text(last + 1, window.last)


def calibrate(
    index: RuleIndex, embedder: SentenceEmbedder, explained: Sequence[tuple[Explanation, Sequence[ScoredWindow]]]
) -> Calibration:
    """Thresholds from train windows: every window against every other unit's explanation is a shuffled pair."""
    windows = [window for _, mine in explained for window in mine]
    owner_W = np.repeat(np.arange(len(explained)), [len(mine) for _, mine in explained])
    whole_WH, near_WH = embedder.windows([parts_of(index, window) for window in windows])
    texts_EH = embedder.texts([explanation.about_inputs for explanation, _ in explained])
    matched_WE = owner_W[:, None] == np.arange(len(explained))
    rates, thresholds = [], []
    for vectors_WH in (near_WH, whole_WH):
        cosine_WE = vectors_WH @ texts_EH.T
        shuffled, matched = cosine_WE[~matched_WE], cosine_WE[matched_WE]
        # With a single explanation there is nothing to compare with: no cosine counts as similar then.
        thresholds.append(float(np.quantile(shuffled, 1 - ALPHA)) if len(shuffled) else 1.0)
        rates.append(float((matched > thresholds[-1]).mean()) if len(matched) else 0.0)
    return Calibration(
        cosine_near=thresholds[0],
        cosine_window=thresholds[1],
        n_windows=len(windows),
        n_shuffled_pairs=int((~matched_WE).sum()),
        alpha=ALPHA,
        matched_rate_near=rates[0],
        matched_rate_window=rates[1],
        max_coverage=MAX_COVERAGE,
        near_tokens=NEAR,
        rubric=RUBRIC.stem,
    )


class ProxyScorer:
    """Scores windows by rule and MiniLM cosine. Nothing about activations can reach it."""

    method = METHOD

    def __init__(self, index: RuleIndex, embedder: SentenceEmbedder, calibration: Calibration) -> None:
        self._index, self._embedder, self._calibration = index, embedder, calibration

    def score(self, explanation: Explanation, windows: Sequence[ScoredWindow]) -> list[Score]:
        """One score per window; units without an explanation get its status."""
        return self.score_all([(explanation, windows)])[0]

    def score_all(self, pairs: Sequence[tuple[Explanation, Sequence[ScoredWindow]]]) -> list[list[Score]]:
        """`score` for many explanations. Only what the rules leave below 2 is embedded, all of it in batches of like length."""
        by_rule = [self._by_rule(explanation, windows) for explanation, windows in pairs]
        open_windows = [
            [window for window, score in zip(windows, scores, strict=True) if _is_open(score)]
            for (_, windows), scores in zip(pairs, by_rule, strict=True)
        ]
        self._embedder.windows([parts_of(self._index, window) for mine in open_windows for window in mine])
        self._embedder.texts(
            [explanation.about_inputs for (explanation, _), mine in zip(pairs, open_windows, strict=True) if mine]
        )
        return [
            self._with_cosines(explanation, mine, scores)
            for (explanation, _), mine, scores in zip(pairs, open_windows, by_rule, strict=True)
        ]

    def _by_rule(self, explanation: Explanation, windows: Sequence[ScoredWindow]) -> list[Score]:
        if explanation.status != "ok" or explanation.rule is None:
            return [Score(None, explanation.status, None) for _ in windows]
        held_before = np.concatenate([[0], np.cumsum(self._index.holds_N(Rule.from_json(explanation.rule)))])
        telling, scores = self._telling(held_before), []
        for window in windows:
            token = window.token_index
            at_token = _held(held_before, token, token)
            at_near = _held(held_before, max(token - NEAR, window.first), min(token + NEAR, window.last))
            if at_token and telling["token"]:
                scores.append(Score(3, "ok", "rule on the token"))
            elif at_near and telling["near"]:
                scores.append(Score(2, "ok", "rule nearby"))
            elif _held(held_before, window.first, window.last) and telling["window"]:
                scores.append(Score(1, "ok", "rule in the window"))
            elif at_token:
                scores.append(Score(1, "ok", "a broad rule holds on the token"))
            else:
                scores.append(Score(0, "ok", "nothing in common"))
        return scores

    def _with_cosines(self, explanation: Explanation, windows: Sequence[ScoredWindow], scores: Sequence[Score]) -> list[Score]:
        """Raise the open scores (those of `windows`, in order) where text and explanation are similar."""
        if not windows:
            return list(scores)
        whole_WH, near_WH = self._embedder.windows([parts_of(self._index, window) for window in windows])
        text_H = self._embedder.texts([explanation.about_inputs])[0]
        cosines = zip((near_WH @ text_H).tolist(), (whole_WH @ text_H).tolist(), strict=True)
        raised = []
        for score in scores:
            if _is_open(score):
                near, whole = next(cosines)
                if near > self._calibration.cosine_near:
                    score = Score(2, "ok", f"similar to the near text (cosine {near:.2f})")
                elif score.value == 0 and whole > self._calibration.cosine_window:
                    score = Score(1, "ok", f"similar to the window (cosine {whole:.2f})")
            raised.append(score)
        return raised

    def _telling(self, held_before: np.ndarray) -> dict[str, bool]:
        """Whether the rule, at each distance, holds for few enough random train tokens to be evidence."""
        covered = {}
        for name, reach in (("token", 0), ("near", NEAR), ("window", REACH)):
            token, context = self._random_train_tokens, self._index.tokens.context
            block = token - token % context
            first, last = np.maximum(token - reach, block), np.minimum(token + reach, block + context - 1)
            covered[name] = float((held_before[last + 1] > held_before[first]).mean())
        return {name: share <= MAX_COVERAGE[name] for name, share in covered.items()}

    @cached_property
    def _random_train_tokens(self) -> np.ndarray:
        train = np.flatnonzero(self._index.tokens.train_N)
        # Evenly spaced, not drawn: the same tokens for every rule and every run.
        return train[np.linspace(0, len(train) - 1, min(N_COVERAGE_TOKENS, len(train))).astype(np.int64)]


def _is_open(score: Score) -> bool:
    """Whether a cosine could still raise the score."""
    return score.value is not None and score.value < 2


def _held(held_before: np.ndarray, first: int, last: int) -> bool:
    return bool(held_before[last + 1] > held_before[first])
