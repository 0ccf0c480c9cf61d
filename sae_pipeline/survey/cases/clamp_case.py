"""What a clamp case is given and what it hands back, and the measurement that all of them share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.survey.cases.case import World
from sae_pipeline.survey.cases.clamping import Clamper, Dose, Prompt
from sae_pipeline.survey.cases.doses import RIVALS, Chosen, compared
from sae_pipeline.survey.cases.reading import whole_text
from sae_pipeline.survey.cases.selection import aurocs, best
from sae_pipeline.survey.measurement import Measurement

FIGURE, N_CANDIDATES = "case_clamps", 3


@dataclass(frozen=True)
class ClampWorld:
    """The world, a model whose features can be clamped, and the features that `case_studies` chose."""

    world: World
    clamper: Clamper
    case_features: pl.DataFrame

    def chosen_before(self, case: str, part: str, n: int = N_CANDIDATES) -> list[int]:
        """The first features of a case of detection, best first."""
        rows = self.case_features.filter(
            (pl.col("case_name") == case) & (pl.col("part") == part) & (pl.col("control") == "none") & (pl.col("rank") <= n)
        )
        return rows.sort("rank")["unit"].to_list()

    def separating(self, positives: Sequence[str], negatives: Sequence[str], what: str, n: int = N_CANDIDATES) -> list[int]:
        """The `n` live features that best separate two sets of sentences (AUROC of the largest activation)."""
        texts = [whole_text(self.world.lm, text) for text in (*positives, *negatives)]
        reading = self.world.read(texts, what)
        score_F = aurocs(reading.features.max_IF, np.arange(len(texts)) < len(positives))
        score_F[self.clamper.maximum_F <= 0] = -1
        return best(score_F, n)


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
        """The change that the chosen dose makes on half B against that of the rivals; rows of `case_doses` beside it."""
        report = [prompt for prompt in prompts if prompt.half == "report"]
        why = f"feature {chosen.dose.feature} clamped to {chosen.dose.factor:g} maxima; costs {chosen.extra_nats:.2f} nats/token"
        self.measurements.append(
            Measurement(
                name, metric, n_scored=len(report), n_attempted=len(prompts), size=found.world.size, control=RIVALS,
                why="; ".join([why, *([others.pop("why")] if "why" in others else [])]), rows="case_doses", figure=FIGURE,
                **compared(chosen.change_P, chosen.rival_change_RP, found.world.seed), **others,
            )
        )  # fmt: skip
        self.add_rows(case, name, report, 0, chosen.dose, chosen.before_P, chosen.after_P)
        for arm, (dose, after_P) in enumerate(zip(chosen.rivals, chosen.rivals_RP, strict=True), start=1):
            self.add_rows(case, name, report, arm, dose, chosen.before_P, after_P)

    def add_rows(
        self, case: str, name: str, prompts: Iterable[Prompt], arm: int, dose: Dose, before_P: np.ndarray, after_P: np.ndarray
    ) -> None:
        """Rows of `case_doses`; arm 0 is the case's own feature, the others are rivals."""
        for item, (prompt, before, after) in enumerate(zip(prompts, before_P, after_P, strict=True)):
            row = {"case_name": case, "measurement": name, "item": item, "text": prompt.text, "arm": arm}
            row |= {"feature": dose.feature, "factor": dose.factor, "before": float(before), "after": float(after)}
            self.doses.append(row)


ClampCase = Callable[[ClampWorld], Clamped]


def maxima(feature_stats: Path, n_features: int) -> np.ndarray:
    """Training maximum of every feature; 0 for one that was never active. F."""
    facts = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "max_activation"])
    maximum_F = np.zeros(n_features)
    maximum_F[facts["feature"].to_numpy()] = facts["max_activation"].to_numpy()
    return maximum_F
