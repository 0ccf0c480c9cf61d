"""Detection and fuzzing by a judge: which held-out windows are shown under an explanation, and what the answers are worth.

Both are balanced. Positives: one window per activation interval. Negatives of three kinds, reported apart: easy ones (detection:
a random window; fuzzing: another token of an active window), the unit's most frequent token where it is inactive, and the windows
nearest by embedding in which the unit is silent.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.interpret.explanation_scores import MIN_WINDOWS, MetricRow, auroc, detection_examples
from sae_pipeline.interpret.hard_negatives import NearestWindows
from sae_pipeline.interpret.llm_scorers import misplaced
from sae_pipeline.interpret.protocols import Control, Explanation, ScoredWindow, Status
from sae_pipeline.interpret.protocols import Score as Scored
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import active_examples, decoys, generator

SURE = 2  # from here on the judge says yes
N_NEAREST = 4
N_MISPLACED = 4
N_SAME_TOKEN = 3
NEGATIVES = ("random", "same_token_inactive", "nearest_inactive")  # in fuzzing, `random` is a misplaced highlight


@dataclass(frozen=True)
class Shown:
    """Windows of one column; `kind[i]` is `active` where a true explanation fits window i, else one of `NEGATIVES`."""

    windows: tuple[ScoredWindow, ...]
    kind: tuple[str, ...]

    @property
    def positive(self) -> np.ndarray:
        """Windows that a true explanation fits."""
        return np.array([each == "active" for each in self.kind], bool)


@dataclass(frozen=True)
class Question:
    """What is shown of one column, under one explanation."""

    units: Units
    column: int
    control: Control
    explanation: Explanation
    shown: Shown


def detection_windows(index: RuleIndex, units: Units, column: int, nearest: NearestWindows, seed: int) -> Shown:
    """The windows that the offline metrics use, and the nearest silent ones."""
    examples = detection_examples(index.tokens, units, column, seed)
    active = [each for each in examples if each.kind == "active"]
    examples = [*examples, *nearest.nearest(units, column, active, N_NEAREST)]
    return Shown(tuple(example.window(index.tokens.context) for example in examples), tuple(example.kind for example in examples))


def fuzzing_windows(index: RuleIndex, units: Units, column: int, nearest: NearestWindows, seed: int) -> Shown:
    """Active windows with the right token highlighted, and highlights that are wrong in three ways."""
    random, context = generator(seed, "fuzzing", units, column), index.tokens.context
    active = active_examples(units, column, 1, random)
    shown = [(example.window(context), "active") for example in active]
    others = active_examples(units, column, 1, random)
    for i in np.sort(random.permutation(len(others))[:N_MISPLACED]).tolist():
        wrong = misplaced(others[i].window(context), units.held_out.of(column)[0], random)
        shown += [(wrong, "random")] if wrong else []
    silent = decoys(index.tokens, units, column, N_SAME_TOKEN, random, quiet_window=True)
    silent = [each for each in silent if each.kind == "same_token_inactive"]
    silent += nearest.nearest(units, column, active, N_SAME_TOKEN)
    shown += [(example.window(context), example.kind) for example in silent]
    return Shown(tuple(window for window, _ in shown), tuple(kind for _, kind in shown))


def judged_rows(name: str, question: Question, scores: Sequence[Scored], scorer: str, plumbing: bool) -> Iterator[MetricRow]:
    """AUROC (over all negatives, and against each kind), balanced accuracy, and the share of windows that were answered.

    An unreadable answer is no answer: it is left out of the first and counted in the last.
    """
    answered = np.array([each.value is not None for each in scores], bool)
    sure = np.array([each.value or 0 for each in scores], float)
    kind = np.array(question.shown.kind)
    positive = question.shown.positive
    failed: Counter[Status] = Counter(each.status for each in scores if each.value is None)
    why: Status = failed.most_common(1)[0][0] if failed else "too_few_examples"
    column, control = question.column, question.control

    def row(metric: str, value: float | None, n: int) -> MetricRow:
        status = "ok" if value is not None else why
        return MetricRow(column, f"judge_{name}_{metric}", control, value, n, status, scorer, plumbing)

    chosen = {"": positive | ~positive} | {f"_{each}": positive | (kind == each) for each in NEGATIVES}
    for suffix, among in chosen.items():
        known = among & answered
        enough = min(positive[known].sum(), (~positive[known]).sum()) >= MIN_WINDOWS
        yield row(f"auroc{suffix}", auroc(sure[known], positive[known]) if enough else None, int(known.sum()))
        if not suffix:
            yes, no = sure[known & positive] >= SURE, sure[known & ~positive] < SURE
            yield row("balanced_accuracy", float(0.5 * (yes.mean() + no.mean())) if enough else None, int(known.sum()))
    if len(scores) and question.explanation.status == "ok":
        yield row("answered", float(answered.mean()), len(scores))
