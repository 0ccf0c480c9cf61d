"""Checklist rows 48 and 49 from table `concept_presence`: the frequency law, and coverage by size.

The interval is over words. A word that stands in two families counts once.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap
from sae_pipeline.survey.completeness.law import fit_sigmoid, predicted
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds

FIGURE, ROWS = "concept_presence", "concept_presence"
SHUFFLED, DIRECTIONS = "shuffled mentions, same selection", "the best of as many random directions of equal densities"
NULLS = {SHUFFLED: "control_present", DIRECTIONS: "direction_present"}


class Presence:
    """Present or not, words x sizes, over the words that could be scored; `nulls`: the same with shuffled mentions, and of random
    directions of which the best is chosen for each word as among the features."""

    def __init__(self, rows: pl.DataFrame, alive: dict[int, int]) -> None:
        scored = rows.filter(pl.col("present").is_not_null()).unique(["size", "word"], maintain_order=True)
        self.sizes, self.alive = sorted(alive), alive
        self.n_attempted = rows["word"].n_unique()
        per_size = {size: scored.filter(size=size).sort("word") for size in self.sizes}
        first = per_size[self.sizes[0]]
        self.log_frequency = np.log10(first["frequency"].to_numpy())
        self.present = {size: mine["present"].to_numpy() for size, mine in per_size.items()}
        self.nulls = {name: {size: mine[column].to_numpy() for size, mine in per_size.items()} for name, column in NULLS.items()}

    @property
    def n_words(self) -> int:
        return len(self.log_frequency)

    def stronger(self, size: int) -> str:
        """The null that reaches the higher coverage; random directions where both reach the same."""
        return max(reversed(NULLS), key=lambda name: int(self.nulls[name][size].sum()))

    def half(self, size: int, drawn: np.ndarray | slice = slice(None)) -> float:
        """log10 of the frequency at which half of the words have a feature."""
        return fit_sigmoid(self.log_frequency[drawn], self.present[size][drawn])[0]

    def spread(self, drawn: np.ndarray | slice, alive: dict[int, int] | None) -> float:
        """Decades between the smallest and the largest half frequency of the sizes, multiplied by `alive` where given."""
        halves = [self.half(size, drawn) + (np.log10(alive[size]) if alive else 0.0) for size in self.sizes]
        return float(max(halves) - min(halves)) if np.isfinite(halves).all() else float("nan")


def completeness_measurements(
    rows: pl.DataFrame, alive: dict[int, int], n_directions: dict[int, int], seed: int, files_sha: str
) -> Iterator[Measurement]:
    """Everything about the law, per size and over sizes. `rows`: table `concept_presence`; `n_directions`: of its null."""
    presence = Presence(rows, alive)
    for size in presence.sizes:
        yield _half(presence, size, seed, files_sha)
        yield _coverage(presence, "concept_coverage", size, presence.stronger(size), seed, files_sha)
        yield _coverage(presence, "concept_coverage_over_shuffled_mentions", size, SHUFFLED, seed, files_sha)
        yield _coverage(
            presence, "concept_coverage_over_random_directions", size, DIRECTIONS, seed, files_sha,
            f"{n_directions[size]:,} random directions beside {alive[size]:,} live features",
        )  # fmt: skip
    yield _spread(presence, seed, files_sha)
    yield _growth(presence, seed, files_sha)
    yield _prediction(presence, seed, files_sha)


def _few(presence: Presence) -> dict[str, Any]:
    """Words and sizes that there are. With enough of both, a law that cannot be fitted is a miss."""
    if len(presence.sizes) < 2:
        return too_few("sizes", len(presence.sizes), 2)
    return too_few("words with enough mentions to say", presence.n_words, thresholds().present_words_needed)


def _half(presence: Presence, size: int, seed: int, files_sha: str) -> Measurement:
    n, alive = presence.n_words, presence.alive[size]
    name, metric = "half_presence_frequency_ratio", "factor between (frequency at 50 % presence) x (alive features) and 1"
    half = presence.half(size)
    shuffled, directions = (int(presence.nulls[name][size].sum()) for name in (SHUFFLED, DIRECTIONS))
    covered = (
        f"{int(presence.present[size].sum())} of {n} words have a feature, with shuffled mentions {shuffled}, "
        f"a random direction {directions}"
    )
    if not np.isfinite(half):
        return Measurement(
            name, metric, None, 0, presence.n_attempted, size, files_sha=files_sha, rows=ROWS,
            why=f"no sigmoid that rises with frequency fits: {covered}", **_few(presence),
        )  # fmt: skip

    def fold(drawn: np.ndarray) -> float:
        return float(10 ** abs(presence.half(size, drawn) + np.log10(alive)))

    low, high = bootstrap(fold, n, seed)
    outside = (
        "" if presence.log_frequency.min() <= half <= presence.log_frequency.max() else ", beyond every word's (extrapolated)"
    )
    return Measurement(
        name, metric, float(10 ** abs(half + np.log10(alive))), n, presence.n_attempted, size, low=low, high=high,
        control="frequency at 50 % presence x 1 (not rescaled)", control_value=float(10 ** abs(half)),
        why=f"half at {10**half:.2g} mentions a token{outside}, x {alive:,} alive = {10**half * alive:.3g}; {covered}",
        files_sha=files_sha, rows=ROWS, figure=FIGURE,
    )  # fmt: skip


def _coverage(
    presence: Presence, name: str, size: int, null: str, seed: int, files_sha: str, why: str | None = None
) -> Measurement:
    own, control = (each[size].astype(float) for each in (presence.present, presence.nulls[null]))
    low, high = bootstrap(lambda drawn: float(own[drawn].mean()), len(own), seed)
    difference = bootstrap(lambda drawn: float((own - control)[drawn].mean()), len(own), seed)
    scored = len(own) > 0
    return Measurement(
        name, "share of words with a feature (F1 at least 0.5 on train and on held-out documents)",
        float(own.mean()) if scored else None, len(own), presence.n_attempted, size, low=low, high=high,
        control=null, control_value=float(control.mean()) if scored else None,
        difference_low=difference[0], difference_high=difference[1], **({} if scored else _few(presence)),
        why=why, files_sha=files_sha, rows=ROWS, figure=FIGURE,
    )  # fmt: skip


def _spread(presence: Presence, seed: int, files_sha: str) -> Measurement:
    every, sizes = slice(None), presence.sizes
    swapped = dict(zip(sizes, [presence.alive[size] for size in reversed(sizes)], strict=True))

    def ratio(drawn: np.ndarray | slice, alive: dict[int, int]) -> float:
        return presence.spread(drawn, None) / max(presence.spread(drawn, alive), 1e-6)

    name, metric = "spread_shrinks_after_rescaling", "spread of half frequencies over sizes (decades), raw / x alive features"
    value = ratio(every, presence.alive) if len(sizes) > 1 else float("nan")
    if not np.isfinite(value):
        why = "needs a rising sigmoid at two sizes or more"
        return Measurement(name, metric, None, 0, presence.n_attempted, why=why, files_sha=files_sha, rows=ROWS, **_few(presence))
    low, high = bootstrap(lambda drawn: ratio(drawn, presence.alive), presence.n_words, seed)
    difference = bootstrap(lambda drawn: ratio(drawn, presence.alive) - ratio(drawn, swapped), presence.n_words, seed)
    return Measurement(
        name, metric, value, presence.n_words, presence.n_attempted, low=low, high=high,
        control="x alive features in reverse order",
        control_value=ratio(every, swapped), difference_low=difference[0], difference_high=difference[1], files_sha=files_sha,
        why=f"raw {presence.spread(every, None):.2f} decades, rescaled {presence.spread(every, presence.alive):.2f}", rows=ROWS,
        figure=FIGURE,
    )  # fmt: skip


def _growth(presence: Presence, seed: int, files_sha: str) -> Measurement:
    def growth(table: dict[int, np.ndarray], drawn: np.ndarray | slice = slice(None)) -> float:
        shares = [float(table[size][drawn].mean()) for size in presence.sizes]
        return min((after - before for before, after in itertools.pairwise(shares)), default=float("nan"))

    value = growth(presence.present) if presence.n_words else float("nan")
    name, metric = "coverage_growth", "smallest gain in coverage from one size to the next"
    if not np.isfinite(value):
        return Measurement(name, metric, None, 0, presence.n_attempted, why="needs two sizes and words", **_few(presence))
    low, high = bootstrap(lambda drawn: growth(presence.present, drawn), presence.n_words, seed)
    shares = ", ".join(f"{size:,}: {presence.present[size].mean():.1%}" for size in presence.sizes)
    control, null = max((growth(table), name) for name, table in presence.nulls.items())
    difference = bootstrap(
        lambda drawn: growth(presence.present, drawn) - growth(presence.nulls[null], drawn), presence.n_words, seed
    )
    return Measurement(
        name, metric, value, presence.n_words, presence.n_attempted, low=low, high=high,
        control=null, control_value=control, difference_low=difference[0], difference_high=difference[1],
        why=f"coverage by size {shares}", files_sha=files_sha, rows=ROWS, figure=FIGURE,
    )  # fmt: skip


def _prediction(presence: Presence, seed: int, files_sha: str) -> Measurement:
    """Coverage of each size from the curve of all other sizes, once with frequencies x alive features and once without."""

    def error(rescaled: bool, drawn: np.ndarray | slice = slice(None)) -> float:
        worst = 0.0
        for size in presence.sizes:
            others = [other for other in presence.sizes if other != size]
            shift = {each: np.log10(presence.alive[each]) if rescaled else 0.0 for each in presence.sizes}
            x = [presence.log_frequency[drawn] + shift[other] for other in others]
            if not x:
                return float("nan")
            curve = fit_sigmoid(np.concatenate(x), np.concatenate([presence.present[other][drawn] for other in others]))
            share = float(predicted(presence.log_frequency[drawn] + shift[size], *curve).mean())
            worst = max(worst, abs(share - float(presence.present[size][drawn].mean()))) if np.isfinite(share) else float("nan")
        return worst

    value = error(True) if presence.n_words else float("nan")
    name, metric = "coverage_prediction_error", "largest error of coverage predicted from the other sizes' curve"
    if not np.isfinite(value):
        return Measurement(name, metric, None, 0, presence.n_attempted, why="no curve of the other sizes", **_few(presence))
    low, high = bootstrap(lambda drawn: error(True, drawn), presence.n_words, seed)
    unscaled = error(False)
    difference = bootstrap(lambda drawn: error(True, drawn) - error(False, drawn), presence.n_words, seed)
    return Measurement(
        name, metric, value, presence.n_words, presence.n_attempted, low=low, high=high,
        control="without rescaling by alive features",
        control_value=unscaled if np.isfinite(unscaled) else None,
        difference_low=difference[0] if np.isfinite(unscaled) else None,
        difference_high=difference[1] if np.isfinite(unscaled) else None, files_sha=files_sha, rows=ROWS, figure=FIGURE,
    )  # fmt: skip
