"""The five toy features of 2023: uppercase text, DNA, surnames in citations, nouns of mathematics, arguments of Python functions.

Shapes: N tokens, L labels.
"""

from collections.abc import Iterator

import numpy as np

from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.counts import Labelled, Tally, f1_of_all, tally
from sae_pipeline.survey.cases.marked import Marked, labelled, parse_single
from sae_pipeline.survey.cases.prompts import digest, fill, half_of, in_half, load
from sae_pipeline.survey.cases.python_labels import LABELS
from sae_pipeline.survey.cases.python_syntax import batches, python_documents
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.selection import beside_rivals, best, bootstrap
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE, ARGUMENTS = "toy_features", "parameter"


def toy_texts() -> dict[str, list[tuple[str, Marked]]]:
    """{half: [(name of the feature, text)]}: words and templates of a half are never seen in the other one."""
    told = load("toys")
    names = [name for name in told if name != "neutral"]
    halves: dict[str, list[tuple[str, Marked]]] = {"choose": [], "report": []}
    for half, made in halves.items():
        for label, name in enumerate(names):
            for template in in_half(told[name]["templates"], half):
                made += [(name, parse_single(fill(template, x=word), label)) for word in in_half(told[name]["words"], half)]
        made += [("neutral", Marked(text, ())) for place, text in enumerate(told["neutral"]) if half_of(place) == half]
    return halves


def run(world: World) -> Found:
    """How many of the five have a feature with a large enough F1 on half B, chosen on half A."""
    found, texts = Found(), toy_texts()
    names = [name for name in load("toys") if name != "neutral"]
    sae, only = world.banks.features, [marked for _, marked in texts["choose"]]
    feature_LF, null_LF, _ = f1_of_all(world.banks, labelled(world.lm, sae, only, len(names), "toy features"), len(names))
    units, null_units = ([best(row)[0] for row in score_LF] for score_LF in (feature_LF, null_LF))
    random_RU = world.random_rivals(units, list(feature_LF))
    only = [marked for _, marked in texts["report"]]
    arms = [(sae, units), (world.banks.null, null_units), *((sae, random_U) for random_U in random_RU.tolist())]
    counted = tally(arms, labelled(world.lm, sae, only, len(names), "toy features"), len(only))
    every = np.arange(len(only))
    scores = [each.f1(every) for each in counted]
    for label, name in enumerate(names):
        found.add_chosen(
            CASE, name, (units[label], null_units[label]),
            (float(feature_LF[label, units[label]]), float(null_LF[label, null_units[label]])),
            (float(scores[0][label]), float(scores[1][label])),
        )  # fmt: skip
        found.add_random(CASE, name, random_RU[:, label], feature_LF[label], [each[label] for each in scores[2:]])
    arguments, sizes = _arguments(world, found)
    groups = [("text", place) for place in every.tolist()] + [("document", place) for place in range(sizes)]

    def n_found(arm: int, at: np.ndarray) -> float:
        passing = int((counted[arm].f1(at[at < len(every)]) >= thresholds().toy_f1).sum())
        if arguments:
            passing += int((arguments[arm].f1(at[at >= len(every)] - len(every)) >= thresholds().toy_f1).sum())
        return float(passing)

    kind = np.array([group[0] == "document" for group in groups])
    value = bootstrap(groups, lambda at: n_found(0, at), world.seed, kind)
    difference = bootstrap(groups, lambda at: n_found(0, at) - n_found(1, at), world.seed, kind)
    beside = beside_rivals(lambda at: n_found(0, at), lambda r, at: n_found(2 + r, at), len(random_RU), groups, world.seed, kind)
    n_toys = len(names) + bool(arguments)
    found.measurements += with_random_features(
        Measurement(
            "toy_features_found", f"of the five toy features, those with F1 >= {thresholds().toy_f1:g} on half B", value.value,
            n_toys, len(names) + 1, world.size, value.low, value.high, DIRECTION, n_found(1, np.arange(len(groups))),
            difference.value, difference.low, difference.high,
            why="; ".join(f"{row['part']} {row['score_report']:.2f}" for row in found.chosen if row["control"] == "none"),
            files_sha=digest("toys"), rows="case_features", figure=FIGURE,
        ), beside,
    )  # fmt: skip
    return found


def _arguments(world: World, found: Found) -> tuple[list[Tally] | None, int]:
    """Arguments of Python functions in the study's own documents, by the parser; None when it has no Python."""
    train, held_out = (python_documents(world, split) for split in ("train", "held_out"))
    if not train or not held_out:
        return None, 0
    label, n_tokens = LABELS.index(ARGUMENTS), world.settings.syntax_tokens

    def labelled_arguments(documents: list[int]) -> Iterator[Labelled]:
        for batch in batches(world, documents, n_tokens):
            yield Labelled(batch.r_ND, batch.label_NL[:, [label]], batch.group_N)

    feature_LF, null_LF, _ = f1_of_all(world.banks, labelled_arguments(train), 1)
    unit, null_unit = best(feature_LF[0])[0], best(null_LF[0])[0]
    (random_R,) = world.random_rivals([unit], [feature_LF[0]]).T
    arms = [(world.banks.features, [unit]), (world.banks.null, [null_unit])]
    arms += [(world.banks.features, [each]) for each in random_R.tolist()]
    counted = tally(arms, labelled_arguments(held_out), len(held_out))
    every = np.arange(len(held_out))
    found.add_chosen(
        CASE, "Python function arguments", (unit, null_unit), (float(feature_LF[0, unit]), float(null_LF[0, null_unit])),
        (float(counted[0].f1(every)[0]), float(counted[1].f1(every)[0])),
    )  # fmt: skip
    found.add_random(
        CASE, "Python function arguments", random_R, feature_LF[0], [float(each.f1(every)[0]) for each in counted[2:]]
    )
    return counted, len(held_out)
