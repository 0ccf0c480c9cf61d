"""Can this judge be believed? Three tests; when one fails, the judge's headline numbers are withheld and the reason is given.

* labels: agreement with ratings made by hand (`calibration_labels.yaml`);
* repeated votes: agreement of the judge with itself;
* matched pairs: a feature's own explanation is rated above another feature's on the same active windows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from sae_pipeline.interpret.agreement import weighted_kappa
from sae_pipeline.interpret.answers import items, ratings
from sae_pipeline.interpret.llm_scorers import RUBRIC, TOKENS_PER_EXAMPLE
from sae_pipeline.interpret.marked_text import CLOSE, OPEN, escape
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.protocols import Score
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.judge.request import Request
from sae_pipeline.tables.schemas import conform, empty

LABELS = Path(__file__).with_name("calibration_labels.yaml")
MIN_LABEL_KAPPA = 0.6
MIN_REPEAT_KAPPA = 0.4
MIN_ANSWERED = 0.8


@dataclass(frozen=True)
class ProxyAgreement:
    """Agreement of the offline proxy with the judge, on the same windows; None where one of the two does not vary."""

    n_proxy_pairs: int
    proxy_kappa: float | None
    proxy_rank_correlation: float | None


@dataclass(frozen=True)
class JudgeCalibration:
    """`None` where there was nothing to compare. `reasons` is empty exactly when the judge passes."""

    model: str
    prompt: str
    label_kappa: float | None
    n_labels: int
    n_labels_answered: int
    repeat_kappa: float | None
    n_repeated: int
    matched_minus_shuffled_low: float | None
    answered_share: float
    reasons: list[str]
    plumbing: bool
    proxy: ProxyAgreement

    @property
    def passed(self) -> bool:
        """Whether the judge's numbers may stand in a headline."""
        return not self.reasons

    def table(self, size: int) -> pl.DataFrame:
        """The row of the table `judge_calibration`."""
        row = asdict(self) | {"size": size, "passed": self.passed, "reasons": "; ".join(self.reasons)}
        row |= row.pop("proxy")
        return conform("judge_calibration", pl.DataFrame([row], schema=empty("judge_calibration").schema))


def calibrate_judge(
    judge: AskingJudge,
    asked_by: str,
    first: Sequence[Score],
    second: Sequence[Score],
    difference_low: float | None,
    answered_share: float,
    proxy: ProxyAgreement,
) -> JudgeCalibration:
    """`first` and `second`: two votes on the same windows; `difference_low`: lower bound of matched minus shuffled."""
    truth, said = _labels(judge, asked_by)
    known = np.array([score is not None for score in said], bool)
    label_kappa = weighted_kappa(truth[known], np.array([score for score in said if score is not None], int))
    pairs = [(a.value, b.value) for a, b in zip(first, second, strict=True) if a.value is not None and b.value is not None]
    votes = np.array(pairs, int).reshape(-1, 2)
    repeat_kappa = weighted_kappa(votes[:, 0], votes[:, 1])
    reasons = [f"not_run: {judge.not_run_because}"] if judge.not_run_because else []
    if judge.settings.plumbing:
        reasons.append("the model is too small to judge (plumbing)")
    if answered_share < MIN_ANSWERED:
        reasons.append(f"only {answered_share:.0%} of the windows were rated (at least {MIN_ANSWERED:.0%})")
    if known.mean() < MIN_ANSWERED or label_kappa is None or label_kappa < MIN_LABEL_KAPPA:
        reasons.append(f"agreement with the labels made by hand: kappa {_shown(label_kappa)} (at least {MIN_LABEL_KAPPA})")
    if repeat_kappa is None or repeat_kappa < MIN_REPEAT_KAPPA:
        reasons.append(f"agreement with itself: kappa {_shown(repeat_kappa)} (at least {MIN_REPEAT_KAPPA})")
    if difference_low is None or difference_low <= 0:
        reasons.append(f"matched explanations are not rated above shuffled ones (lower bound {_shown(difference_low)})")
    return JudgeCalibration(
        judge.settings.model, RUBRIC, label_kappa, len(truth), int(known.sum()), repeat_kappa, len(votes), difference_low,
        answered_share, reasons, judge.settings.plumbing, proxy,
    )  # fmt: skip


def n_labels() -> int:
    """Ratings made by hand that every calibration asks for."""
    return len(yaml.safe_load(LABELS.read_text(encoding="utf-8")))


def _labels(judge: AskingJudge, asked_by: str) -> tuple[np.ndarray, list[int | None]]:
    """Ratings made by hand, and the judge's: one example per call, since every one has its own description."""
    labels = yaml.safe_load(LABELS.read_text(encoding="utf-8"))
    prompt = load_prompt(RUBRIC)
    requests = [
        Request(
            asked_by, f"label {i}", prompt.name, prompt.sha, prompt.text,
            f'<description>{escape(label["description"])}</description>\n<example number="1">{_marked(label["text"])}</example>',
            ratings(1), 50 + TOKENS_PER_EXAMPLE[RUBRIC],
        )
        for i, label in enumerate(labels)
    ]  # fmt: skip
    said = [items(reply.value)[0].score if reply.value else None for reply in judge.ask(requests, "calibration")]
    return np.array([label["score"] for label in labels]), said


def _marked(text: str) -> str:
    before, _, rest = text.partition(OPEN)
    inside, _, after = rest.partition(CLOSE)
    return f"{escape(before)}{OPEN}{escape(inside)}{CLOSE}{escape(after)}"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
