"""What a case study is given and what it hands back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases.bank import Banks
from sae_pipeline.survey.cases.random_features import IN_GROUP, N_GROUPS, best_of_groups, live_densities, matched
from sae_pipeline.survey.cases.reading import Reading, Text, read
from sae_pipeline.survey.cases.selection import Detection
from sae_pipeline.survey.measurement import Measurement

DIRECTION = "the best of as many random directions of the same densities, chosen alike"
FIGURE = "case_studies"


@dataclass(frozen=True)
class World:
    """The largest SAE of a study, its control, the model, and where the study's own texts and statistics are."""

    lm: LanguageModel
    banks: Banks
    corpus: CorpusReader
    activations: ActivationReader
    feature_stats: Path
    settings: CaseStudies

    @property
    def size(self) -> int:
        """Number of features of the SAE."""
        return self.banks.features.n_features

    @property
    def seed(self) -> int:
        """Of every random choice."""
        return self.settings.seed

    def read(self, texts: Sequence[Text], what: str) -> Reading:
        """Every unit of both banks on every item of the texts."""
        return read(self.lm, self.banks, texts, what)

    def random_features(self, units: Sequence[int], n: int, never: Iterable[int] = ()) -> np.ndarray:
        """`n` random features beside each unit, as dense as it and none of `never`, U x n."""
        return matched(*live_densities(self.feature_stats, self.size), units, n, never, self.seed)

    def random_rivals(self, units: Sequence[int], score_UF: Sequence[np.ndarray], never: Iterable[int] = ()) -> np.ndarray:
        """Of `N_GROUPS` groups of random features beside each unit the best by the unit's score on half A. R x U."""
        drawn_UN = self.random_features(units, N_GROUPS * IN_GROUP, never)
        return best_of_groups(score_UF, drawn_UN.reshape(len(units), -1, IN_GROUP))


@dataclass
class Found:
    """What one case found: measurements, its single items, and the units that were chosen."""

    measurements: list[Measurement] = field(default_factory=list)
    items: list[dict] = field(default_factory=list)
    chosen: list[dict] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, list[dict]]:
        """By table."""
        return {"case_items": self.items, "case_features": self.chosen}

    def add_items(
        self, case: str, part: str, names: Iterable[str], halves: Iterable[str], positive: Iterable[bool],
        values: Iterable[float], controls: Iterable[float],
    ) -> None:  # fmt: skip
        """Rows of `case_items`; items are numbered as they come."""
        for name, half, is_positive, value, control in zip(names, halves, positive, values, controls, strict=True):
            row = {
                "case_name": case,
                "item": len(self.items),
                "part": part,
                "half": half,
                "text": name,
                "positive": bool(is_positive),
            }
            self.items.append(row | {"value": float(value), "control_value": float(control)})

    def add_chosen(
        self, case: str, part: str, units: tuple[int, int], chosen: tuple[float, float], reported: tuple[float, float]
    ) -> None:
        """Rows of `case_features`: the feature and the random direction, their scores on both halves."""
        for control, unit, score, report in zip(("none", "random_direction"), units, chosen, reported, strict=True):
            row = {"case_name": case, "part": part, "control": control, "unit": unit, "rank": 1}
            self.chosen.append(row | {"score_choose": float(score), "score_report": float(report)})

    def add_random(self, case: str, part: str, units: np.ndarray, score_F: np.ndarray, reported: Iterable[float]) -> None:
        """Rows of `case_features`: the random features of one chosen unit, a row a group."""
        for group, (unit, report) in enumerate(zip(units, reported, strict=True), start=1):
            row = {"case_name": case, "part": part, "control": "random_feature", "unit": int(unit), "rank": group}
            self.chosen.append(row | {"score_choose": float(score_F[unit]), "score_report": float(report)})

    def add_detection(self, case: str, part: str, found: Detection) -> None:
        """The two units of a detection."""
        self.add_chosen(
            case, part, (found.unit, found.null_unit), (found.chosen_score, found.chosen_null_score),
            (found.value.value, found.control),
        )  # fmt: skip


Case = Callable[[World], Found]


def mean_interval(values_I: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean over items, and its bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(0, len(values_I), (2000, len(values_I)))
    low, high = np.percentile(values_I[drawn].mean(axis=1), [2.5, 97.5])
    return float(values_I.mean()), float(low), float(high)
