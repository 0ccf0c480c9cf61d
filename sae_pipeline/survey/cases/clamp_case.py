"""What a clamp case is given and what it hands back, and the measurement that all of them share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.survey.cases.case import World
from sae_pipeline.survey.cases.clamping import Clamper, Dose, Prompt
from sae_pipeline.survey.cases.doses import RANDOM_FEATURES, RIVALS, Chosen, compared
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import Pooled, Text, read_banks, whole_text
from sae_pipeline.survey.cases.selection import aurocs, best
from sae_pipeline.survey.measurement import Measurement

FIGURE, N_CANDIDATES = "case_clamps", 3
Search = Callable[[Pooled], np.ndarray]
"""What the units of a bank do on some items -> a score for each, F; -inf for one that is no candidate."""


@dataclass(frozen=True)
class ClampWorld:
    """The world, and a model whose units can be clamped."""

    world: World
    clamper: Clamper

    def searched(self, texts: Sequence[Text], search: Search, what: str) -> dict[int, list[int]]:
        """Of every bank the candidates that a search proposes: the same function for the SAE and for random directions."""
        pooled, _ = read_banks(self.world.lm, self.clamper.banks, texts, what)
        return self.beside_random([self.candidates(search(each)) for each in pooled])

    def beside_random(self, candidates: Sequence[list[int]]) -> dict[int, list[int]]:
        """The candidates by the number of their bank; below 0: groups of random features, one as dense as each of the SAE's."""
        drawn_UR = self.world.random_features(candidates[0], self.world.settings.n_rival_groups)
        return dict(enumerate(candidates)) | {-1 - group: units for group, units in enumerate(drawn_UR.T.tolist())}

    def candidates(self, score_F: np.ndarray) -> list[int]:
        """The units of largest score, best first. What the feature of a number never did, no unit of that number may do."""
        score_F = np.where(self.clamper.maximum_F > 0, score_F, -np.inf)
        return [unit for unit in best(score_F, N_CANDIDATES) if score_F[unit] > -np.inf]

    def separating(self, positives: Sequence[str], negatives: Sequence[str], what: str) -> dict[int, list[int]]:
        """Of every bank the units that best separate two sets of sentences (AUROC of the largest activation)."""
        texts = [whole_text(self.world.lm, text) for text in (*positives, *negatives)]
        positive_I = np.arange(len(texts)) < len(positives)
        return self.searched(texts, lambda pooled: aurocs(pooled.max_IF, positive_I), what)


@dataclass
class Clamped:
    """What one clamp case found."""

    measurements: list[Measurement] = field(default_factory=list)
    doses: list[dict] = field(default_factory=list)
    generations: list[dict] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, list[dict]]:
        """By table."""
        return {"case_doses": self.doses, "case_generations": self.generations}

    def add(
        self, found: ClampWorld, case: str, name: str, metric: str, prompts: Sequence[Prompt], chosen: Chosen,
        **others: Any,
    ) -> None:  # fmt: skip
        """The change that the chosen dose makes on half B against those of random directions and of random features; rows of
        `case_doses` beside it."""
        report = [prompt for prompt in prompts if prompt.half == "report"]
        groups = [prompt.group for prompt in report]
        why = f"feature {chosen.dose.feature} clamped to {chosen.dose.factor:g} maxima; costs {chosen.extra_nats:.2f} nats/token"
        main = Measurement(
            name, metric, n_scored=len(report), n_attempted=len(prompts), size=found.world.size, control=RIVALS,
            why="; ".join([why, *([others.pop("why")] if "why" in others else [])]), rows="case_doses", figure=FIGURE,
            **compared(chosen.change_P, chosen.rival_change_RP, found.world.seed, groups), **others,
        )  # fmt: skip
        self.add_compared(main, chosen.change_P, chosen.random_change_RP, found.world.seed, groups)
        self.add_rows(case, name, report, 0, chosen.dose, chosen.before_P, chosen.after_P)
        doses, after_RP = [*chosen.rivals, *chosen.random], [*chosen.rivals_RP, *chosen.random_RP]
        for arm, (dose, after_P) in enumerate(zip(doses, after_RP, strict=True), start=1):
            self.add_rows(case, name, report, arm, dose, chosen.before_P, after_P)

    def add_compared(
        self, main: Measurement, own_P: np.ndarray, random_RP: np.ndarray, seed: int, groups: Sequence[str | None] | None = None
    ) -> None:
        """A measurement, and the same one beside random features."""
        beside = compared(own_P, random_RP, seed, groups) if len(random_RP) else None
        self.measurements += with_random_features(main, beside, RANDOM_FEATURES)

    def add_rows(
        self, case: str, name: str, prompts: Iterable[Prompt], arm: int, dose: Dose, before_P: np.ndarray, after_P: np.ndarray
    ) -> None:
        """Rows of `case_doses`; arm 0 is the case's own feature, the others are rivals: one of each bank or group."""
        for item, (prompt, before, after) in enumerate(zip(prompts, before_P, after_P, strict=True)):
            row = {"case_name": case, "measurement": name, "item": item, "text": prompt.text, "arm": arm}
            row |= {"control": dose.control, "feature": dose.feature, "factor": dose.factor}
            row |= {"before": float(before), "after": float(after)}
            self.doses.append(row)


ClampCase = Callable[[ClampWorld], Clamped]


def maxima(feature_stats: Path, n_features: int) -> np.ndarray:
    """Training maximum of every feature; 0 for one that was never active. F."""
    facts = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "max_activation"])
    maximum_F = np.zeros(n_features)
    maximum_F[facts["feature"].to_numpy()] = facts["max_activation"].to_numpy()
    return maximum_F
