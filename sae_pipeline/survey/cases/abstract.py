"""Concrete and abstract (paper, 'Abstract feature generalization'): chosen on instances of a topic, tested on talk about it."""

import numpy as np

from sae_pipeline.interpret.explanation_scores import auroc
from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, load
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import whole_text
from sae_pipeline.survey.cases.selection import aurocs, beside_rivals, best, bootstrap, probe_auroc
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds, without_zero

CASE = "abstract"


def run(world: World) -> Found:
    """How many topics have one feature for both: chosen on instances, and good enough on the abstract side."""
    topics, found = load("abstract"), Found()
    rows = [(topic, side, text) for topic, sides in topics.items() for side, texts in sides.items() for text in texts]
    topic_I, side_I, texts = (list(column) for column in zip(*rows, strict=True))
    topic_I, abstract_I = np.array(topic_I), np.array(side_I) == "abstract"
    reading = world.read([whole_text(world.lm, text) for text in texts], "concrete and abstract")
    values, nulls, probes, units, scores_F = [], [], [], [], []
    for topic in topics:
        positive_I = topic_I == topic
        score_F, null_F = (aurocs(bank.max_IF[~abstract_I], positive_I[~abstract_I]) for bank in (reading.features, reading.null))
        unit, null_unit = best(score_F)[0], best(null_F)[0]
        units.append(unit)
        scores_F.append(score_F)
        values.append(reading.features.max_IF[:, unit])
        nulls.append(reading.null.max_IF[:, null_unit])
        probes.append(probe_auroc(reading.x_ID, positive_I, ~abstract_I, abstract_I))
        reported = [auroc(each[-1][abstract_I], positive_I[abstract_I]) for each in (values, nulls)]
        found.add_chosen(
            CASE, topic, (unit, null_unit), (float(score_F[unit]), float(null_F[null_unit])), (reported[0], reported[1])
        )
        halves = np.where(abstract_I, "report", "choose")
        found.add_items(CASE, topic, texts, halves, positive_I, values[-1], nulls[-1])
    of_A, names = topic_I[abstract_I], list(topics)
    random_RU = world.random_rivals(units, scores_F)
    random = [list(reading.features.max_IF[:, random_U].T) for random_U in random_RU]
    for topic, random_R, score_F in zip(topics, random_RU.T, scores_F, strict=True):
        reported_R = aurocs(reading.features.max_IF[abstract_I][:, random_R], of_A == topic)
        found.add_random(CASE, topic, random_R, score_F, reported_R)

    def n_found(arms: list[np.ndarray], at: np.ndarray) -> float:
        return float(
            sum(
                auroc(arms[place][abstract_I][at], of_A[at] == name) >= thresholds().abstract_auroc
                for place, name in enumerate(names)
            )
        )

    groups, strata = list(range(len(of_A))), np.unique(of_A, return_inverse=True)[1]
    value = bootstrap(groups, lambda at: n_found(values, at), world.seed, strata)
    difference = bootstrap(groups, lambda at: n_found(values, at) - n_found(nulls, at), world.seed, strata)
    n_carried = sum(probe >= thresholds().abstract_carried_auroc for probe in probes)
    enough = without_zero(thresholds().abstract_auroc)
    beside = beside_rivals(
        lambda at: n_found(values, at), lambda r, at: n_found(random[r], at), len(random), groups, world.seed, strata
    )
    found.measurements += with_random_features(
        Measurement(
            "abstract_from_concrete_topics",
            f"topics whose feature, chosen on instances, reaches AUROC {enough} on talk about them",
            value.value, len(topics), len(topics), world.size, value.low, value.high, DIRECTION,
            n_found(nulls, np.arange(len(of_A))), difference.value, difference.low, difference.high,
            ceiling_metric=f"topics that a dense probe carries over at AUROC {thresholds().abstract_carried_auroc}",
            ceiling=float(n_carried),
            ceiling_threshold=float(thresholds().abstract_topics_needed),
            why="; ".join(f"{row['part']} {row['score_report']:.2f}" for row in found.chosen if row["control"] == "none"),
            files_sha=digest("abstract"), rows="case_items", figure=FIGURE,
        ), beside,
    )  # fmt: skip
    return found
