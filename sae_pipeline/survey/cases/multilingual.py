"""Languages (paper, 'Multilingual'): does the feature that stands out in English lead in the same sentence in other languages?

Shapes: C concepts, G languages, F units, D width, R groups of random features.
"""

import numpy as np

from sae_pipeline.survey.cases.case import FIGURE, Found, World, mean_interval
from sae_pipeline.survey.cases.doses import compared
from sae_pipeline.survey.cases.prompts import digest, load
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import whole_text
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE = "multilingual"
SHUFFLED = "features of the other concepts on the same sentence"


def reciprocal_ranks(mean_CGF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(chosen feature C; 1/rank of every chosen feature on every sentence of the other languages, C chosen x C told x G - 1).

    Chosen in the first language: the feature whose mean activation exceeds its mean over the other concepts by most. Ranked by
    mean activation, as in the paper; of equal ones the worst rank counts, so a silent feature comes last.
    """
    excess_CF = excesses(mean_CGF)
    chosen_C = excess_CF.argmax(axis=1)
    ranks = (mean_CGF[None, :, 1:] >= mean_CGF[:, 1:, chosen_C].transpose(2, 0, 1)[..., None]).sum(axis=-1)
    return chosen_C, excess_CF[np.arange(len(excess_CF)), chosen_C], 1.0 / ranks


def excesses(mean_CGF: np.ndarray) -> np.ndarray:
    """Mean activation in the first language over its mean on the other concepts. C x F."""
    english_CF = mean_CGF[:, 0]
    return english_CF - (english_CF.sum(axis=0) - english_CF) / (len(english_CF) - 1)


def own_ranks(mean_CGF: np.ndarray, unit_C: np.ndarray) -> np.ndarray:
    """1/rank of one unit per concept on the concept's own sentences of the other languages. C x G - 1."""
    told_CGF = mean_CGF[:, 1:]
    return 1.0 / (told_CGF >= told_CGF[np.arange(len(unit_C)), :, unit_C][..., None]).sum(axis=-1)


def retrieval(x_CGD: np.ndarray) -> float:
    """The ceiling: share of sentences whose nearest English one is their own, by the residual stream less its language's mean."""
    centred = x_CGD - x_CGD.mean(axis=0, keepdims=True)
    centred /= np.linalg.norm(centred, axis=2, keepdims=True)
    cosine = np.einsum("cgd,ed->cge", centred[:, 1:], centred[:, 0])
    return float((cosine.argmax(axis=2) == np.arange(len(x_CGD))[:, None]).mean())


def run(world: World) -> Found:
    """Mean reciprocal rank over concepts and languages, and for each language."""
    told, found = load("parallel"), Found()
    languages, concepts = told["languages"], list(told["concepts"])
    sentences = [sentence for concept in concepts for sentence in told["concepts"][concept]]
    reading = world.read([whole_text(world.lm, sentence) for sentence in sentences], "parallel sentences")
    shape = (len(concepts), len(languages), -1)
    mean_CGF = reading.features.mean_IF.reshape(shape)
    chosen_C, excess_C, rank_CCG = reciprocal_ranks(mean_CGF)
    excess_CF = excesses(mean_CGF)
    random_RC = world.random_rivals(chosen_C.tolist(), list(excess_CF))
    random_RCG = np.array([own_ranks(mean_CGF, random_C) for random_C in random_RC])
    ceiling = retrieval(reading.x_ID.reshape(shape))
    own_CG = np.einsum("ccg->cg", rank_CCG)
    others_CG = (rank_CCG.sum(axis=0) - own_CG) / (len(concepts) - 1)
    for place, concept in enumerate(concepts):
        row = {"case_name": CASE, "part": concept, "control": "none", "unit": int(chosen_C[place]), "rank": 1}
        found.chosen.append(row | {"score_choose": float(excess_C[place]), "score_report": float(own_CG[place].mean())})
        found.add_random(CASE, concept, random_RC[:, place], excess_CF[place], [each[place].mean() for each in random_RCG])
    for place, language in enumerate(languages[1:]):
        found.add_items(
            CASE, language, [told["concepts"][concept][place + 1] for concept in concepts], ["report"] * len(concepts),
            [True] * len(concepts), own_CG[:, place], others_CG[:, place],
        )  # fmt: skip
    parts = [("multilingual_reciprocal_rank", slice(None))]
    parts += [(f"multilingual_reciprocal_rank_{name.lower()}", slice(at, at + 1)) for at, name in enumerate(languages[1:])]
    for name, part in parts:
        own, others = own_CG[:, part], others_CG[:, part]
        # Concepts are resampled with all their languages.
        value, difference = mean_interval(own.mean(axis=1), world.seed), mean_interval((own - others).mean(axis=1), world.seed)
        random = [each[:, part].mean(axis=1) for each in random_RCG]
        beside = compared(own.mean(axis=1), np.array(random), world.seed) if random else None
        found.measurements += with_random_features(
            Measurement(
                name, "mean reciprocal rank, by mean activation, of the feature chosen in English", value[0], own.size, own.size,
                world.size, value[1], value[2], SHUFFLED, float(others.mean()), *difference,
                ceiling_metric=f"share of sentences whose nearest English one is their own (chance {1 / len(concepts):.2f})",
                ceiling=ceiling, ceiling_threshold=thresholds().multilingual_carried,
                files_sha=digest("parallel"), rows="case_items", figure=FIGURE,
            ), beside,
        )  # fmt: skip
    return found
