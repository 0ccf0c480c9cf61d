"""Checklist row 18: four clear features, their specificity by activation.

The paper's four were chosen to be easy. Here a rule chooses them on train tokens: of a random sample of live features with enough
activations, those whose explanation's rule predicts them best (F1 on train tokens). Then about a thousand held-out activations of
each are scored with the explanation, and with that of another of the four.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.proxy import ProxyScorer
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.units import Units, choose
from sae_pipeline.interpret.windows import Example, close_look, derangement, generator
from sae_pipeline.resampling import bootstrap
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.schemas import conform

N_CHOSEN, N_CANDIDATES = 4, 400
TOP_SHARE = 0.1
Known = Mapping[int, Explanation]  # by column


def clear_candidates(units: Units, known: Known, seed: int) -> list[int]:
    """Columns with enough train activations and a rule, `N_CANDIDATES` at most, drawn by the seed, ascending."""
    enough = [
        int(column) for column in units.explained
        if units.train.count_U[column] >= thresholds().clear_min_activations
        and column in known and known[column].rule is not None
    ]  # fmt: skip
    return np.sort(np.random.default_rng(seed).permutation(enough)[:N_CANDIDATES]).astype(int).tolist()


def choose_clear(index: RuleIndex, units: Units, known: Known, candidates: Sequence[int]) -> dict[int, float]:
    """{column: F1 on train tokens} of the four candidates with the best, best first."""
    rules = [Rule.from_json(known[column].rule or "") for column in candidates]
    n_held, n_hit, _ = index.count(rules, choose(units, candidates).train, index.tokens.train_N)
    f1 = 2 * n_hit / np.maximum(n_held + units.train.count_U[list(candidates)], 1)
    best = np.argsort(-f1, kind="stable")[:N_CHOSEN]
    return {candidates[i]: float(f1[i]) for i in best}


@dataclass(frozen=True)
class Scored:
    """Windows of one feature, strongest first: activation interval, score with its own and with another's explanation."""

    interval: np.ndarray
    own: np.ndarray
    wrong: np.ndarray
    document: np.ndarray

    @property
    def n_top(self) -> int:
        """Windows in the strongest tenth."""
        return max(1, round(TOP_SHARE * len(self.own)))


def score_chosen(
    scorer: ProxyScorer, index: RuleIndex, units: Units, known: Known, columns: Sequence[int], n_windows: int, seed: int
) -> dict[int, Scored]:
    """Held-out activations of each feature, as evenly over the intervals as they allow."""
    other = derangement(columns, seed) if len(columns) > 1 else {}
    examples: dict[int, list[Example]] = {}
    for column in columns:
        drawn = close_look(units, column, n_windows, [], generator(seed, "chosen", units, column))
        examples[column] = sorted(drawn, key=lambda each: each.activation or 0.0, reverse=True)
    pairs = [
        (known[which], [each.window(index.tokens.context) for each in examples[column]])
        for column in columns
        for which in (column, other.get(column, column))
    ]
    scores = [[each.value or 0 for each in mine] for mine in scorer.score_all(pairs)]
    return {
        column: Scored(
            np.array([each.interval for each in examples[column]]), np.array(scores[2 * i]), np.array(scores[2 * i + 1]),
            index.tokens.doc_id_N[[each.token_index for each in examples[column]]],
        )
        for i, column in enumerate(columns)
        if examples[column]
    }  # fmt: skip


def top_mean(scored: Scored, values: np.ndarray, order: np.ndarray) -> float:
    """Mean score of the strongest tenth of the windows `order` (indices, with repeats)."""
    strongest = np.sort(order)[: max(1, round(TOP_SHARE * len(order)))]  # windows are sorted by activation
    return float(values[strongest].mean())


def bin_correlation(scored: Scored, values: np.ndarray, order: np.ndarray) -> float:
    """Spearman's correlation of activation interval and mean score in it; not a number where there are fewer than three."""
    interval, value = scored.interval[order], values[order]
    bins = np.unique(interval)
    means = np.array([value[interval == each].mean() for each in bins])
    if len(bins) < 3 or np.ptp(means) == 0:
        return 0.0 if len(bins) >= 3 else float("nan")
    return float(np.corrcoef(_ranks(bins), _ranks(means))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties averaged."""
    return pl.Series(values).rank().to_numpy()


def chosen_rows(scored: dict[int, Scored], f1: dict[int, float], size: int) -> pl.DataFrame:
    """Table `chosen_feature_specificity`."""
    rows = []
    for column, one in scored.items():
        every = np.arange(len(one.own))
        rho = bin_correlation(one, one.own, every)
        rows.append({
            "size": size, "feature": column, "train_f1": f1[column], "n_windows": len(every),
            "top_decile_mean": top_mean(one, one.own, every), "top_decile_share_of_3": float((one.own[: one.n_top] == 3).mean()),
            "bin_correlation": None if np.isnan(rho) else rho,
            "mean": float(one.own.mean()), "wrong_mean": float(one.wrong.mean()),
            "wrong_top_decile_mean": top_mean(one, one.wrong, every),
        })  # fmt: skip
    return conform("chosen_feature_specificity", pl.DataFrame(rows) if rows else pl.DataFrame())


def chosen_measurements(scored: dict[int, Scored], size: int, seed: int) -> Iterator[Measurement]:
    """Means over the four; intervals by resampling each feature's windows by document (four features are too few to resample)."""
    for name, (metric, statistic) in STATISTICS.items():
        yield _measurement(name, metric, statistic, scored, size, seed)


STATISTICS: dict[str, tuple[str, Callable[["Scored", np.ndarray, np.ndarray], float]]] = {
    "chosen_features_top_decile_score": (
        "mean specificity (0-3) of the strongest tenth of activations, four features", top_mean,
    ),
    "chosen_features_bin_correlation": (
        "Spearman of activation interval and mean specificity, mean of four features", bin_correlation,
    ),
}  # fmt: skip


def null_measurements(
    scored: dict[int, Scored], null: dict[int, Scored], kind: str, n_candidates: int, size: int, seed: int
) -> Iterator[Measurement]:
    """The same beside the clearest four of `n_candidates` other units (`kind`: in words). Documents are resampled for both."""
    for name, (metric, statistic) in STATISTICS.items():
        control = f"the clearest four of {n_candidates} {kind.replace('_', ' ')}"
        yield _beside(f"{name}_over_{kind}", metric, statistic, scored, null, control, size, seed)


def _beside(
    name: str, metric: str, statistic: Callable[[Scored, np.ndarray, np.ndarray], float], scored: dict[int, Scored],
    null: dict[int, Scored], control: str, size: int, seed: int,
) -> Measurement:  # fmt: skip
    both = [_mean(statistic, each, "own") for each in (scored, null)]
    if np.isnan(both).any():
        n = min(len(scored), len(null))
        return Measurement(
            name, metric, None, 0, N_CHOSEN, size, control=control, **too_few("clear units with windows", n, N_CHOSEN)
        )
    documents = np.unique(np.concatenate([one.document for each in (scored, null) for one in each.values()]))
    n = len(documents)

    def at(drawn: np.ndarray, each: dict[int, Scored]) -> float:
        return _mean(statistic, each, "own", documents[drawn])

    low, high = bootstrap(lambda drawn: at(drawn, scored), n, seed)
    difference = bootstrap(lambda drawn: at(drawn, scored) - at(drawn, null), n, seed)
    return Measurement(
        name, metric, both[0], len(scored), N_CHOSEN, size, low=low, high=high, control=control, control_value=both[1],
        difference_low=difference[0], difference_high=difference[1], rows="chosen_feature_specificity",
        why=f"offline proxy; {sum(len(one.own) for one in null.values()):,} held-out windows of the control",
    )  # fmt: skip


def _mean(
    statistic: Callable[[Scored, np.ndarray, np.ndarray], float], scored: dict[int, Scored], values: str,
    documents: np.ndarray | None = None,
) -> float:  # fmt: skip
    """Mean over units of a statistic of their windows, or of those in `documents` (with repeats)."""
    found = []
    for one in scored.values():
        order = np.arange(len(one.own)) if documents is None else _of_documents(one, documents)
        found.append(statistic(one, getattr(one, values), order) if len(order) else float("nan"))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _measurement(
    name: str, metric: str, statistic: Callable[[Scored, np.ndarray, np.ndarray], float], scored: dict[int, Scored], size: int,
    seed: int,
) -> Measurement:  # fmt: skip
    def mean(values: str, drawn: np.ndarray | None = None) -> float:
        return _mean(statistic, scored, values, drawn)

    value, control = mean("own"), mean("wrong")
    if np.isnan(value):
        least = thresholds().clear_min_activations
        why = f"a live feature with {least} training activations is looked for, and held-out ones in 3 intervals"
        most = max((len(np.unique(one.interval)) for one in scored.values()), default=0)
        return Measurement(
            name, metric, None, 0, N_CHOSEN, size, why=why, **too_few("intervals with held-out activations of a feature", most, 3)
        )
    documents = np.unique(np.concatenate([one.document for one in scored.values()]))
    low, high = bootstrap(lambda at: mean("own", documents[at]), len(documents), seed)
    difference = bootstrap(lambda at: mean("own", documents[at]) - mean("wrong", documents[at]), len(documents), seed)
    return Measurement(
        name, metric, value, len(scored), N_CHOSEN, size, low=low, high=high,
        control="another of the four's explanation on the same windows", control_value=None if np.isnan(control) else control,
        difference_low=difference[0], difference_high=difference[1],
        why=f"offline proxy; {sum(len(one.own) for one in scored.values()):,} held-out windows; interval by document",
        rows="chosen_feature_specificity",
    )  # fmt: skip


def _of_documents(one: Scored, documents: np.ndarray) -> np.ndarray:
    """Indices of the windows of the drawn documents, as often as these were drawn."""
    times = np.bincount(documents, minlength=int(one.document.max()) + 1)[one.document]
    return np.repeat(np.arange(len(times)), times)
