"""The stage `neighbourhood_checks`: do features that lie near each other also mean related things?

Meaning is read from explanations by a sentence embedding; decoder rows never enter it. Two tests (paper, 'Feature neighborhoods',
shows maps): the rank correlation of label similarity with decoder cosine over pairs of near and of random features, and finding
the stranger among neighbours. Both are repeated with the labels dealt out to other features.

Shapes: A anchors, I items of a question, H embedding width, R resamples.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import rankdata

from sae_pipeline.interpret.build_specificity import read_explanations
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.token_stats import METHOD
from sae_pipeline.resampling import draws, interval
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey_laws import NeighbourhoodChecks
from sae_pipeline.survey.build import NEIGHBOURS
from sae_pipeline.survey.experiments.held_out import difference
from sae_pipeline.survey.measurement import Measurement, too_few, write_measurements
from sae_pipeline.survey.neighbours import decoder_rows
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.schemas import conform, empty

PAIRS, QUESTIONS = "neighbourhood_pairs.parquet", "odd_one_out.parquet"
N_RESAMPLES = 500  # of rank correlations


def build_neighbourhood_checks(
    *, neighbourhoods: Path, sae_folders: Mapping[int, Path], explanations: Mapping[int, Path], settings: NeighbourhoodChecks,
    work: Path, embedder: SentenceEmbedder | None = None,
) -> Outcome:  # fmt: skip
    """Write both tables and the measurements, size by size."""
    embedder = embedder or SentenceEmbedder()
    pairs, questions = [empty("neighbourhood_pairs")], [empty("odd_one_out")]
    measurements: list[Measurement] = []
    near = pl.read_parquet(neighbourhoods / NEIGHBOURS).filter(pl.col("size") == pl.col("neighbour_size"))
    for size, folder in sae_folders.items():
        known = read_explanations(explanations[size], METHOD)
        text = {unit: one.about_inputs for (kind, unit), one in known.items() if kind == "sae_feature" and one.status == "ok"}
        drawn = draw(near.filter(pl.col("size") == size), sorted(text), settings, size)
        if drawn.height < thresholds().neighbour_anchors_needed:
            measurements += _too_few(size, drawn.height)
            continue
        label_FH = np.zeros((size, embedder.texts([""]).shape[1]), np.float32)
        wanted = sorted({int(feature) for name in COLUMNS for feature in drawn[name]})
        label_FH[wanted] = embedder.texts([text[feature] for feature in wanted])
        # The control: every label goes to another of the features that are asked about.
        dealt_FH = np.zeros_like(label_FH)
        dealt_FH[wanted] = label_FH[np.random.default_rng([settings.seed, 83, size]).permutation(wanted)]
        rows_FD = decoder_rows(folder)
        mine = _pairs(size, drawn, rows_FD, label_FH, dealt_FH)
        asked = _questions(size, drawn, label_FH, dealt_FH)
        pairs.append(mine)
        questions.append(asked)
        measurements += [
            _correlation(size, mine, "label_similarity_of_neighbours", "neighbours of any rank and random features", settings),
            _correlation(
                size, mine.filter(kind="neighbour"), "label_similarity_among_neighbours", "neighbours of any rank alone", settings
            ),
            _accuracy(size, asked, settings),
        ]
    pl.concat(pairs).write_parquet(work / PAIRS)
    pl.concat(questions).write_parquet(work / QUESTIONS)
    write_measurements(work, "neighbourhood_checks", measurements)
    return Outcome({f"{each.measurement} {each.size}": each.value for each in measurements})


COLUMNS = ("feature", "neighbour", "first", "second", "stranger")


def draw(near: pl.DataFrame, explained: list[int], settings: NeighbourhoodChecks, size: int) -> pl.DataFrame:
    """Anchors, each with a neighbour of uniformly drawn rank, its two nearest neighbours, and a feature that is none of its
    neighbours. Only explained features take part. `near`: rows of `feature_neighbours` within the size."""
    random = np.random.default_rng([settings.seed, 84, size])
    listed = near.filter(pl.col("feature").is_in(explained), pl.col("neighbour").is_in(explained)).sort("feature", "rank")
    by_feature = {
        int(feature): neighbours
        for feature, neighbours in listed.group_by("feature", maintain_order=True).agg("neighbour").iter_rows()
        if len(neighbours) >= 2
    }
    anchors = sorted(random.permutation(sorted(by_feature))[: settings.n_anchors].tolist())
    rows = []
    for anchor in anchors:
        neighbours = by_feature[anchor]
        taken = {anchor, *neighbours}
        if len(explained) <= len(taken):
            continue
        stranger = anchor
        while stranger in taken:
            stranger = explained[int(random.integers(len(explained)))]
        rows.append((anchor, neighbours[int(random.integers(len(neighbours)))], *neighbours[:2], stranger))
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.Int32), orient="row")


def _pairs(size: int, drawn: pl.DataFrame, rows_FD: np.ndarray, label_FH: np.ndarray, dealt_FH: np.ndarray) -> pl.DataFrame:
    anchor = drawn["feature"].to_numpy()
    frames = []
    for kind, column in (("neighbour", "neighbour"), ("random", "stranger")):
        other = drawn[column].to_numpy()
        frames.append(pl.DataFrame({
            "size": np.full(len(anchor), size), "feature": anchor, "other": other, "kind": [kind] * len(anchor),
            "cosine": (rows_FD[anchor] * rows_FD[other]).sum(1).clip(-1, 1),
            "label_similarity": (label_FH[anchor] * label_FH[other]).sum(1).clip(-1, 1),
            "dealt_similarity": (dealt_FH[anchor] * dealt_FH[other]).sum(1).clip(-1, 1),
        }))  # fmt: skip
    return conform("neighbourhood_pairs", pl.concat(frames))


def _questions(size: int, drawn: pl.DataFrame, label_FH: np.ndarray, dealt_FH: np.ndarray) -> pl.DataFrame:
    item_AI = drawn.select("feature", "first", "second", "stranger").to_numpy()
    stranger = item_AI.shape[1] - 1
    frame = pl.DataFrame({
        "size": np.full(len(item_AI), size), **{name: drawn[name] for name in ("feature", "first", "second", "stranger")},
        "found": odd_one(label_FH[item_AI]) == stranger, "found_dealt": odd_one(dealt_FH[item_AI]) == stranger,
    })  # fmt: skip
    return conform("odd_one_out", frame)


def odd_one(label_AIH: np.ndarray) -> np.ndarray:
    """The item of each question with the least mean similarity to the others, A. Ties go to the first, which is no stranger."""
    similarity_AII = label_AIH @ label_AIH.transpose(0, 2, 1)
    n_items = label_AIH.shape[1]
    others_AI = (similarity_AII.sum(2) - similarity_AII[:, np.arange(n_items), np.arange(n_items)]) / (n_items - 1)
    return others_AI.argmin(axis=1)


def _correlation(size: int, pairs: pl.DataFrame, name: str, which: str, settings: NeighbourhoodChecks) -> Measurement:
    """Spearman over pairs; anchors are resampled with all their pairs."""
    ranks = [rankdata(pairs[column].to_numpy()) for column in ("cosine", "label_similarity", "dealt_similarity")]
    _, anchor = np.unique(pairs["feature"].to_numpy(), return_inverse=True)
    weight_RP = draws(int(anchor.max()) + 1, settings.seed, N_RESAMPLES)[:, anchor]
    own, dealt = (_weighted_correlation(ranks[0], other, np.ones((1, pairs.height)))[0] for other in ranks[1:])
    own_R, dealt_R = (_weighted_correlation(ranks[0], other, weight_RP) for other in ranks[1:])
    low, high = interval(own_R)
    paired = difference(own_R, dealt_R)
    return Measurement(
        name, f"Spearman correlation of label similarity and decoder cosine over pairs: {which}", float(own), pairs.height,
        pairs.height, size=size, low=low, high=high, control="labels dealt out to other features", control_value=float(dealt),
        difference_low=paired[0], difference_high=paired[1], rows="neighbourhood_pairs",
        why="labels by counting (token-stats), similarity by MiniLM; ranks of all pairs, anchors resampled",
    )  # fmt: skip


def _weighted_correlation(x_P: np.ndarray, y_P: np.ndarray, weight_RP: np.ndarray) -> np.ndarray:
    total_R = weight_RP.sum(1)
    x_R, y_R = weight_RP @ x_P / total_R, weight_RP @ y_P / total_R
    covariance_R = weight_RP @ (x_P * y_P) / total_R - x_R * y_R
    spread_R = (weight_RP @ x_P**2 / total_R - x_R**2) * (weight_RP @ y_P**2 / total_R - y_R**2)
    return covariance_R / np.sqrt(spread_R)


def _accuracy(size: int, questions: pl.DataFrame, settings: NeighbourhoodChecks) -> Measurement:
    own, dealt = (questions[name].to_numpy().astype(float) for name in ("found", "found_dealt"))
    weight_RA = draws(len(own), settings.seed)
    own_R, dealt_R = weight_RA @ own / len(own), weight_RA @ dealt / len(dealt)
    low, high = interval(own_R)
    paired = difference(own_R, dealt_R)
    return Measurement(
        "odd_one_out_accuracy", "share of questions in which label similarity finds the stranger among four features",
        float(own.mean()), len(own), len(own), size=size, low=low, high=high,
        control="labels dealt out to other features (chance 1/4)", control_value=float(dealt.mean()), difference_low=paired[0],
        difference_high=paired[1], rows="odd_one_out", why="an anchor, its two nearest features and one random feature",
    )  # fmt: skip


def _too_few(size: int, n: int) -> list[Measurement]:
    few = too_few("explained features with two explained neighbours and a stranger", n, thresholds().neighbour_anchors_needed)
    return [
        Measurement(name, "not measured", None, 0, n, size=size, **few)
        for name in ("label_similarity_of_neighbours", "label_similarity_among_neighbours", "odd_one_out_accuracy")
    ]
