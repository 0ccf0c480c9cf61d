"""Chat (paper, 'Zero-shot generalization'): features silent on all training dialogues, active on turns in the chat template.

Shapes: C numbers of prompts, F features, I prompts, N resamples, R draws of random features, U silent features.
"""

from collections.abc import Iterator

import numpy as np

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.survey.cases.case import FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, load
from sae_pipeline.survey.cases.random_features import BESIDE_EACH, N_GROUPS, densities, with_random_features
from sae_pipeline.survey.cases.reading import from_ids
from sae_pipeline.survey.cases.selection import N_RESAMPLES, beside_one_rival
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds

CASE, SOURCE = "zero_shot_chat", "dialogues"


def silent_on(world: World, source: str) -> np.ndarray:
    """Live features without one activation on the training tokens of a source (bool, F)."""
    silent_F = densities(world.feature_stats, world.size) > 0
    activations = SparseActivations.open(world.feature_stats / "activations_train.parquet")
    from_source_N = np.append(world.corpus.source_of_doc == source, False)[world.corpus.doc_ids_BT.reshape(-1)]
    feature_Z = np.repeat(np.arange(activations.n_units), activations.count_U)
    silent_F[np.unique(feature_Z[from_source_N[activations.token_index]])] = False
    return silent_F


def _draws(n: int, seed: int) -> Iterator[np.ndarray]:
    """Places of `n` features drawn with repeats, `N_RESAMPLES` times."""
    random = np.random.default_rng(seed)
    for _ in range(N_RESAMPLES):
        yield random.integers(0, n, n)


def _beside(active_U: np.ndarray, random_active_RU: np.ndarray, seed: int) -> dict[str, float] | None:
    """The number of active features beside that of random ones, over the draws of its interval; None without random features."""
    if not random_active_RU.size:
        return None
    n, n_rivals = len(active_U), len(random_active_RU)

    def rival_of(drawn_N: np.ndarray) -> np.ndarray:
        return np.array([random_active_RU[r, at].sum() for r, at in zip(drawn_N, _draws(n, seed), strict=True)])

    return beside_one_rival(
        float(active_U.sum()), float(random_active_RU.sum() / n_rivals), n_rivals,
        np.array([active_U[at].sum() for at in _draws(n, seed)]), rival_of, np.random.default_rng([seed, n_rivals]),
    )  # fmt: skip


def at_least(n_prompts: int, silent_IF: np.ndarray) -> np.ndarray:
    """Chance to fire on at least `n_prompts` of the prompts, each by itself silent with the given chance. F."""
    fewer_CF = np.zeros((n_prompts, silent_IF.shape[1]))  # chance of exactly C prompts so far
    fewer_CF[0] = 1.0
    for silent_F in silent_IF:
        one_more_CF = fewer_CF[:-1] * (1 - silent_F)
        fewer_CF *= silent_F
        fewer_CF[1:] += one_more_CF
    return 1 - fewer_CF.sum(axis=0)


def run(world: World) -> Found:
    """Features silent on dialogues that fire on some chat prompts, beside the number that their density predicts."""
    turns, found, n_prompts = load("chat")["turns"], Found(), thresholds().chat_prompts
    metric = f"features silent on {SOURCE} in training that fire on at least {n_prompts} chat prompts"
    if SOURCE not in set(world.corpus.source_of_doc.tolist()):
        found.measurements = [
            Measurement(
                "zero_shot_chat", metric, None, 0, world.size, world.size,
                **too_few(f"of the corpus's sources {SOURCE}", 0, 1), files_sha=digest("chat"),
            )
        ]  # fmt: skip
        return found
    # The template writes its own BOS; `chat` never doubles it.
    texts = [from_ids(world.lm.chat(turn)) for turn in turns]
    reading = world.read(texts, "chat prompts")
    silent_F = silent_on(world, SOURCE)
    fires_IF = reading.features.max_IF[:, silent_F] > 0
    active = fires_IF.sum(axis=0) >= n_prompts
    density_F = densities(world.feature_stats, world.size)
    length_I = np.array([len(text.ids) - 1 for text in texts])
    # A prompt of n tokens: P(silent) = (1 - density)^n.
    expected = float(at_least(n_prompts, (1 - density_F[silent_F]) ** length_I[:, None]).sum())
    for unit in np.flatnonzero(silent_F)[np.argsort(-fires_IF.sum(axis=0), kind="stable")][:20].tolist():
        n_fired = int((reading.features.max_IF[:, unit] > 0).sum())
        row = {"case_name": CASE, "part": "silent on dialogues", "control": "none", "unit": unit, "rank": 1}
        found.chosen.append(row | {"score_choose": None, "score_report": n_fired / len(turns)})
    drawn = [float(active[at].sum()) for at in _draws(len(active), world.seed)]
    # Beside each silent feature random ones that did fire on the source.
    random_RU = world.random_features(np.flatnonzero(silent_F).tolist(), N_GROUPS).T
    beside = _beside(active, (reading.features.max_IF > 0).sum(axis=0)[random_RU] >= n_prompts, world.seed)
    low, high = np.percentile(drawn, [2.5, 97.5])
    found.measurements += with_random_features(
        Measurement(
            "zero_shot_chat", metric,
            float(active.sum()), int(silent_F.sum()), world.size, world.size, float(low), float(high),
            "number that each feature's density predicts for prompts of these lengths", expected,
            float(active.sum()) - expected, float(low) - expected, float(high) - expected,
            why=f"the corpus has source {SOURCE}, without the chat template: only features that it never activated count; "
            f"{int(silent_F.sum())} of {world.size} features are silent on it; interval over features",
            files_sha=digest("chat"), rows="case_features", figure=FIGURE,
        ), beside, BESIDE_EACH.format(n=N_GROUPS),
    )  # fmt: skip
    return found
