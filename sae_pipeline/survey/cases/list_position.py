"""List positions (paper, 'List position features'): a feature that fires on the k-th item whatever the items are."""

import numpy as np

from sae_pipeline.interpret.explanation_scores import auroc
from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, fill, half_of, load
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import Text, from_spans
from sae_pipeline.survey.cases.selection import aurocs, beside_rivals, best, bootstrap, probe_auroc
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE = "list_position"


def lists(world: World) -> tuple[list[Text], list[str], np.ndarray, np.ndarray]:
    """(texts with one item per entry, their words, number of the list, half of the list), over all lists."""
    told, texts, words, halves = load("lists"), [], [], []
    random = np.random.default_rng(world.seed)
    for place, (_, things) in enumerate(told["kinds"].items()):
        for number in range(told["n_lists_per_kind"]):
            text = told["layouts"][(number // 2 * 2 + place % 2) % len(told["layouts"])]
            spans = []
            for thing in random.permutation(things)[: told["n_items"]]:
                line = fill(told["bullet"], item=thing)
                start = len(text) + line.index(str(thing))
                spans.append((start, start + len(str(thing))))
                text += line
            texts.append(from_spans(world.lm, text, spans))
            words.append(text)
            halves.append(half_of(place))
    return texts, words, np.arange(len(texts)), np.array(halves)


def run(world: World) -> Found:
    """For every position the best feature of half A (other kinds of things); the mean AUROC over positions on half B."""
    texts, words, _, half_G = lists(world)
    n_items, found = load("lists")["n_items"], Found()
    reading = world.read(texts, "list positions")
    position_I = np.tile(np.arange(n_items), len(texts))
    list_I, half_I = np.repeat(np.arange(len(texts)), n_items), np.repeat(half_G, n_items)
    choose_I, report_I = half_I == "choose", half_I == "report"
    values, nulls, probes, units, scores_F = [], [], [], [], []
    for position in range(n_items):
        positive_I = position_I == position
        scores = [aurocs(bank.max_IF[choose_I], positive_I[choose_I]) for bank in (reading.features, reading.null)]
        unit, null_unit = (best(score)[0] for score in scores)
        units.append(unit)
        scores_F.append(scores[0])
        values.append(reading.features.max_IF[:, unit])
        nulls.append(reading.null.max_IF[:, null_unit])
        probes.append(probe_auroc(reading.x_ID, positive_I, choose_I, report_I))
        reported = tuple(auroc(each[-1][report_I], positive_I[report_I]) for each in (values, nulls))
        found.add_chosen(
            CASE, f"item {position + 1}", (unit, null_unit), (float(scores[0][unit]), float(scores[1][null_unit])),
            (reported[0], reported[1]),
        )  # fmt: skip
        found.add_items(
            CASE, f"item {position + 1}", [words[each] for each in list_I[positive_I]], half_I[positive_I],
            np.ones(positive_I.sum(), bool), values[-1][positive_I], nulls[-1][positive_I],
        )  # fmt: skip
    random_RU = world.random_rivals(units, scores_F)
    random = [list(reading.features.max_IF[:, random_U].T) for random_U in random_RU]
    for position, (random_R, score_F) in enumerate(zip(random_RU.T, scores_F, strict=True)):
        reported_R = aurocs(reading.features.max_IF[report_I][:, random_R], position_I[report_I] == position)
        found.add_random(CASE, f"item {position + 1}", random_R, score_F, reported_R)
    of_B = position_I[report_I]

    def mean_auroc(arms: list[np.ndarray], at: np.ndarray) -> float:
        of_arm = [auroc(each[report_I][at], of_B[at] == position) for position, each in enumerate(arms)]
        return float(np.mean(of_arm))

    groups, strata = list_I[report_I].tolist(), np.zeros(len(of_B))
    value = bootstrap(groups, lambda at: mean_auroc(values, at), world.seed, strata)
    difference = bootstrap(groups, lambda at: mean_auroc(values, at) - mean_auroc(nulls, at), world.seed, strata)
    beside = beside_rivals(
        lambda at: mean_auroc(values, at), lambda r, at: mean_auroc(random[r], at), len(random), groups, world.seed, strata
    )
    found.measurements += with_random_features(
        Measurement(
            "list_position_auroc", f"AUROC of one item of a list against the others, mean over {n_items} positions", value.value,
            int(report_I.sum()), len(position_I), world.size, value.low, value.high, DIRECTION,
            mean_auroc(nulls, np.arange(len(of_B))), difference.value, difference.low, difference.high,
            ceiling_metric="mean AUROC of a dense probe on the other half's kinds of things", ceiling=float(np.mean(probes)),
            ceiling_threshold=thresholds().list_position_carried_auroc,
            why="the best position of the dictionary is in case_features",
            files_sha=digest("lists"), rows="case_items", figure=FIGURE,
        ), beside,
    )  # fmt: skip
    return found
