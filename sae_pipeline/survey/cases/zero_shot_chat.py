"""Chat (paper, 'Zero-shot generalization'): features silent on all training dialogues, active on turns in the chat template.

Shapes: F features, I prompts.
"""

import numpy as np
import polars as pl

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.survey.cases.case import FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, load
from sae_pipeline.survey.cases.reading import from_ids
from sae_pipeline.survey.measurement import Measurement

CASE, SOURCE, N_PROMPTS = "zero_shot_chat", "dialogues", 2


def silent_on(world: World, source: str) -> np.ndarray:
    """Live features without one activation on the training tokens of a source (bool, F)."""
    facts = pl.read_parquet(world.feature_stats / "features.parquet", columns=["feature", "density"])
    silent_F = np.zeros(world.size, bool)
    silent_F[facts.filter(pl.col("density") > 0)["feature"].to_numpy()] = True
    activations = SparseActivations.open(world.feature_stats / "activations_train.parquet")
    from_source_N = np.append(world.corpus.source_of_doc == source, False)[world.corpus.doc_ids_BT.reshape(-1)]
    feature_Z = np.repeat(np.arange(activations.n_units), activations.count_U)
    silent_F[np.unique(feature_Z[from_source_N[activations.token_index]])] = False
    return silent_F


def run(world: World) -> Found:
    """Features silent on dialogues that fire on at least two chat prompts, beside the number that their density predicts."""
    turns, found = load("chat")["turns"], Found()
    # The template writes its own BOS; `chat` never doubles it.
    texts = [from_ids(world.lm.chat(turn)) for turn in turns]
    reading = world.read(texts, "chat prompts")
    silent_F = silent_on(world, SOURCE)
    fires_IF = reading.features.max_IF[:, silent_F] > 0
    active = fires_IF.sum(axis=0) >= N_PROMPTS
    facts = pl.read_parquet(world.feature_stats / "features.parquet", columns=["feature", "density"])
    density_F = np.zeros(world.size)
    density_F[facts["feature"].to_numpy()] = facts["density"].to_numpy()
    length_I = np.array([len(text.ids) - 1 for text in texts])
    # A prompt of n tokens: P(fires) = 1 - (1 - density)^n; at least two prompts: neither none nor exactly one.
    silent_IF = (1 - density_F[silent_F]) ** length_I[:, None]
    none_F = silent_IF.prod(axis=0)
    one_F = none_F * ((1 - silent_IF) / np.maximum(silent_IF, 1e-12)).sum(axis=0)
    expected = float((1 - none_F - one_F).sum())
    for unit in np.flatnonzero(silent_F)[np.argsort(-fires_IF.sum(axis=0), kind="stable")][:20].tolist():
        n_prompts = int((reading.features.max_IF[:, unit] > 0).sum())
        row = {"case_name": CASE, "part": "silent on dialogues", "control": "none", "unit": unit, "rank": 1}
        found.chosen.append(row | {"score_choose": None, "score_report": n_prompts / len(turns)})
    random = np.random.default_rng(world.seed)
    drawn = [float(active[random.integers(0, len(active), len(active))].sum()) for _ in range(1000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    seen = SOURCE in set(world.corpus.source_of_doc.tolist())
    found.measurements.append(
        Measurement(
            "zero_shot_chat", f"features silent on {SOURCE} in training that fire on at least {N_PROMPTS} chat prompts",
            float(active.sum()), int(silent_F.sum()), world.size, world.size, float(low), float(high),
            "number that each feature's density predicts for prompts of these lengths", expected,
            float(active.sum()) - expected, float(low) - expected, float(high) - expected,
            why=f"the corpus {'has' if seen else 'has no'} source {SOURCE}, "
            f"{'without the chat template: only features that it never activated count' if seen else 'so every feature counts'}; "
            f"{int(silent_F.sum())} of {world.size} features are silent on it; interval over features",
            files_sha=digest("chat"), rows="case_features", figure=FIGURE,
        )
    )  # fmt: skip
    return found
