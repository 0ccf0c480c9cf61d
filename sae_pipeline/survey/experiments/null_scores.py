"""The offline scores of the main run (rubric proxy, rules) for features of a trained SAE and of everything that is no such thing.

Every unit is explained from train examples and scored on held-out windows by the same explainer and the same scorer, which is
calibrated once, on the trained SAE. Dense units (directions, components) are as dense as the trained features that were drawn.

Shapes: C units of an arm, N tokens, W windows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from sae_pipeline import progress
from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import rule_scores
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, ScoredWindow
from sae_pipeline.interpret.proxy import ProxyScorer, calibrate
from sae_pipeline.interpret.random_model import random_model_units
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES, TokenStats
from sae_pipeline.interpret.units import Units, directions, random_directions
from sae_pipeline.interpret.windows import active_examples, generator
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.experiments.untrained import PrincipalComponents

BATCH_TOKENS = 8192
SKEW_TOKENS = 16_384
TRAINED, FROZEN, PCA, RANDOM, RANDOM_MODEL = (
    "trained SAE", "frozen decoder", "principal components", "random directions", "random model",
)  # fmt: skip


def arms_to_score(
    reader: ActivationReader, trained: SparseAutoencoder, frozen: SparseAutoencoder, components: PrincipalComponents,
    random_model: Path, n_units: int, seed: int,
) -> dict[str, Units]:  # fmt: skip
    """The units of every arm, by its name. Without a random model in the study that arm is left out."""
    own = feature_units(trained, reader, n_units, seed)
    n_active = own.train.count_U
    n_components = min(n_units, components.component_DD.shape[0], len(n_active))
    arms = {
        TRAINED: own,
        FROZEN: feature_units(frozen, reader, n_units, seed),
        PCA: directions(reader, _skewed(reader, components.component_DD[:n_components]), n_active[:n_components]),
        RANDOM: random_directions(reader, n_active, seed),
    }
    for units in random_model_units(random_model, n_active / len(reader.token_index("train")), reader):
        arms[RANDOM_MODEL] = units
    return {name: units for name, units in arms.items() if len(units.ids)}


def feature_units(
    sae: SparseAutoencoder, reader: ActivationReader, n_units: int, seed: int, n_tokens: int | None = None
) -> Units:
    """A seeded sample of features with enough train activations to explain them. Only the sampled columns are ever kept.

    `n_tokens`: look at about as many tokens of each split, evenly spread; all of them by default.
    """
    order = np.random.default_rng([seed, 11]).permutation(sae.n_features)[: 2 * n_units]
    tokens = {name: reader.token_index(name) for name in ("train", "held_out")}
    if n_tokens is not None:
        tokens = {name: index_N[:: -(-len(index_N) // n_tokens)] for name, index_N in tokens.items()}
    split = {name: _columns(sae, reader, index_N, np.sort(order)) for name, index_N in tokens.items()}
    seen = None if n_tokens is None else torch.cat(list(tokens.values())).sort().values.numpy()
    position = {int(feature): at for at, feature in enumerate(np.sort(order))}
    known = [position[int(f)] for f in order if split["train"].count_U[position[int(f)]] >= MIN_EXAMPLES][:n_units]
    chosen = np.sort(np.array(known, np.int64))
    train, held_out = (split[name].columns(chosen) for name in ("train", "held_out"))
    return Units("sae_feature", np.sort(order)[chosen], train, held_out, np.arange(len(chosen)), seen)


def _columns(sae: SparseAutoencoder, reader: ActivationReader, index_N: torch.Tensor, features: np.ndarray) -> SparseActivations:
    column_F = torch.full((sae.n_features,), -1, dtype=torch.int64)
    column_F[torch.from_numpy(features)] = torch.arange(len(features))
    unit, token, value = [], [], []
    for part_N in progress.track(index_N.split(BATCH_TOKENS), "activations of some features", unit="batches"):
        codes = sae.encode_sparse(reader.gather(part_N))
        column_P = column_F[codes.feature.long()]
        keep_P = column_P >= 0
        unit.append(column_P[keep_P].numpy())
        token.append(part_N[codes.token[keep_P]].numpy())
        value.append(codes.value[keep_P].numpy())
    return SparseActivations.from_arrays(*(np.concatenate(each) for each in (unit, token, value)), n_units=len(features))


def _skewed(reader: ActivationReader, direction_CD: torch.Tensor) -> torch.Tensor:
    """Each direction with the sign in which its train projections are more skewed: a component has no sign of its own."""
    index_N = reader.token_index("train")
    index_N = index_N[:: -(-len(index_N) // SKEW_TOKENS)]
    value_NC = reader.scaled(reader.gather(index_N)) @ direction_CD.T
    return direction_CD * torch.where((value_NC - value_NC.mean(0)).pow(3).mean(0) < 0, -1.0, 1.0)[:, None]


def score_units(index: RuleIndex, arms: Mapping[str, Units], seed: int) -> pl.DataFrame:
    """Per unit of every arm: the mean specificity (0-3) of its held-out windows and the F1 of its rule, null where unknown."""
    explained = {
        name: TokenStats(index.only(units.seen), units, {}).explain(units.ids.tolist()) for name, units in arms.items()
    }  # fmt: skip
    embedder = SentenceEmbedder()
    calibration = calibrate(index, embedder, [
        (explanation, _windows(index, arms[TRAINED], column, seed, "train"))
        for column, explanation in enumerate(explained[TRAINED]) if explanation.status == "ok"
    ])  # fmt: skip
    scorer = ProxyScorer(index, embedder, calibration)
    rows = []
    for name, units in arms.items():
        seen = index.only(units.seen)
        n_train = max(1, int(seen.tokens.train_N.sum()))
        f1 = {
            row.column: row.value for row in rule_scores(seen, units, explained[name], seed)
            if row.metric == "rule_f1" and row.control == ARM_OF_UNIT[units.unit]
        }  # fmt: skip
        windows = [_windows(index, units, column, seed, "held_out") for column in range(len(units.ids))]
        scores = scorer.score_all(list(zip(explained[name], windows, strict=True)))
        for column, mine in enumerate(scores):
            levels = [score.value for score in mine if score.value is not None]
            rows.append({
                "arm": name, "unit_id": int(units.ids[column]), "density": float(units.train.count_U[column] / n_train),
                "specificity": float(np.mean(levels)) if levels else None, "n_windows": len(levels), "rule_f1": f1.get(column),
            })  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"specificity": pl.Float64, "rule_f1": pl.Float64})


def _windows(index: RuleIndex, units: Units, column: int, seed: int, split: Literal["train", "held_out"]) -> list[ScoredWindow]:
    examples = active_examples(units, column, 1, generator(seed, f"null {split}", units, column), split)
    return [example.window(index.tokens.context) for example in examples]
