"""Syntax (paper, 'Basic code features'): features against the labels of the parser, on the study's own Python documents.

Chosen on training documents, reported on held-out ones; then the same units on marked programs in other languages.
Shapes: N tokens, L labels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from sae_pipeline.activations.reader import KEEP
from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.counts import Labelled, Tally, f1_of_all, tally
from sae_pipeline.survey.cases.marked import labelled, parse
from sae_pipeline.survey.cases.prompts import digest, load
from sae_pipeline.survey.cases.python_labels import LABELS, python_spans
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import token_ranges
from sae_pipeline.survey.cases.selection import Interval, beside_rivals, best, bootstrap
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds

CASE, N_BEST = "python_syntax", 3


def run(world: World) -> Found:
    """The three labels with the best unit on training documents, mean F1 on held-out ones; every label's own in case_features."""
    found, n_tokens = Found(), world.settings.syntax_tokens
    documents = {split: python_documents(world, split) for split in ("train", "held_out")}
    if not all(documents.values()):
        found.measurements = [
            Measurement("python_syntax_f1", "F1 of token labels", None, 0, 0, world.size,
                        **too_few("of train and held-out, splits with Python documents", sum(map(bool, documents.values())), 2),
                        why="the study's corpus has no Python documents in both splits", files_sha=digest("syntax"))
        ]  # fmt: skip
        return found
    feature_LF, null_LF, total_L = f1_of_all(world.banks, batches(world, documents["train"], n_tokens), len(LABELS))
    units, null_units = ([best(row)[0] for row in score_LF] for score_LF in (feature_LF, null_LF))
    random_RU = world.random_rivals(units, list(feature_LF))
    arms = [(world.banks.features, units), (world.banks.null, null_units)]
    arms += [(world.banks.features, random_U) for random_U in random_RU.tolist()]
    counted = tally(arms, batches(world, documents["held_out"], n_tokens), len(documents["held_out"]))
    seen = np.flatnonzero(counted[0].total_GL.sum(axis=1) + counted[0].fires_GL.sum(axis=1) > 0)
    every = np.arange(len(LABELS))
    scores = [feature_LF[every, units], null_LF[every, null_units], *(feature_LF[every, random_U] for random_U in random_RU)]
    enough = np.flatnonzero(total_L >= thresholds().syntax_min_tokens)
    chosen = [enough[np.argsort(-score[enough], kind="stable")[:N_BEST]] for score in scores]
    reported = [each.f1(seen) for each in counted]
    for label, name in enumerate(LABELS):
        found.add_chosen(
            CASE, name, (units[label], null_units[label]), (float(scores[0][label]), float(scores[1][label])),
            (float(reported[0][label]), float(reported[1][label])),
        )  # fmt: skip
        found.add_random(CASE, name, random_RU[:, label], feature_LF[label], [each[label] for each in reported[2:]])
    for name, labels in (("python_syntax_f1", chosen), ("python_syntax_f1_all_labels", [enough] * len(arms))):
        if few := _too_few(len(enough), len(seen)):
            found.measurements.append(Measurement(
                name, "F1 of token labels", None, 0, len(documents["held_out"]), world.size, **few, files_sha=digest("syntax")
            ))  # fmt: skip
            continue
        value, control, difference = compared(counted, labels, seen, world.seed)
        what = ", ".join(LABELS[label] for label in labels[0])
        found.measurements += with_random_features(
            Measurement(
                name, f"mean F1 of firing against the parser's labels of held-out tokens: {what}", value.value, len(seen),
                len(documents["held_out"]), world.size, value.low, value.high, DIRECTION, control, difference.value,
                difference.low, difference.high,
                why="labels by F1 on training documents; items are documents", files_sha=digest("syntax"),
                rows="case_features", figure=FIGURE,
            ), beside_random(counted, labels, seen, world.seed),
        )  # fmt: skip
    found.measurements += _transfer(world, found, [units for _, units in arms])
    return found


def _too_few(n_labels: int, n_documents: int) -> dict[str, Any] | None:
    """What a measurement says that has no label to be taken from, or no held-out document; None where it has."""
    if not n_labels:
        return too_few(f"labels of {thresholds().syntax_min_tokens} training tokens or more", 0, 1)
    return None if n_documents else too_few("held-out Python documents with labels", 0, 1)


def compared(counted: list[Tally], labels: list[np.ndarray], groups: np.ndarray, seed: int) -> tuple[Interval, float, Interval]:
    """(mean F1 over the labels, the control's over its own, their difference) of the first two arms; documents are resampled."""
    mean, strata = _mean_f1(counted, labels, groups), np.zeros(len(groups))
    value = bootstrap(groups.tolist(), lambda at: mean(0, at), seed, strata)
    difference = bootstrap(groups.tolist(), lambda at: mean(0, at) - mean(1, at), seed, strata)
    return value, mean(1, np.arange(len(groups))), difference


def beside_random(counted: list[Tally], labels: list[np.ndarray], groups: np.ndarray, seed: int) -> dict[str, float] | None:
    """The first arm beside all from the third on."""
    mean, n_rivals = _mean_f1(counted, labels, groups), len(counted) - 2
    return beside_rivals(
        lambda at: mean(0, at), lambda r, at: mean(2 + r, at), n_rivals, groups.tolist(), seed, np.zeros(len(groups))
    )


def _mean_f1(counted: list[Tally], labels: list[np.ndarray], groups: np.ndarray) -> Callable[[int, np.ndarray], float]:
    """(arm, places among the groups) -> its mean F1 over its labels."""
    return lambda arm, at: float(counted[arm].f1(groups[at])[labels[arm]].mean())


def python_documents(world: World, split: str) -> list[int]:
    """Python documents of a split, in an order of the seed's."""
    documents = world.corpus.documents
    chosen = documents.filter((documents["language"] == "Python") & (documents["split"] == split))["doc_id"].to_numpy()
    return np.random.default_rng(world.seed).permutation(chosen).tolist()


def batches(world: World, documents: list[int], n_tokens: int) -> Iterator[Labelled]:
    """Stored activations of the documents' unmasked tokens with their labels, until `n_tokens` have come.

    Left out: documents that are not ASCII, and what does not come out of the tokenizer again as it is in the corpus.
    """
    ids_N, document_N = world.corpus.token_ids_BT.reshape(-1), world.corpus.doc_ids_BT.reshape(-1)
    kept_N, special, done = (world.activations.reason_BT == KEEP).reshape(-1).numpy(), np.array(sorted(world.lm.special_ids)), 0
    order = np.argsort(document_N, kind="stable")
    ordered = document_N[order]
    for group, document in enumerate(documents):
        if done >= n_tokens:
            return
        index_T = order[np.searchsorted(ordered, document) : np.searchsorted(ordered, document, side="right")]
        index_T = index_T[~np.isin(ids_N[index_T], special)]
        text = world.lm.decode(ids_N[index_T].tolist())
        if not len(index_T) or not text.isascii():
            continue
        ids, ranges = token_ranges(world.lm, text)
        if ids != ids_N[index_T].tolist():
            continue
        n_characters, spans = python_spans(text)
        label_TL = np.zeros((len(ids), len(LABELS)), bool)
        starts, ends = (np.array(column) for column in zip(*ranges, strict=True))
        for label, start, end in spans:
            label_TL[(starts < end) & (ends > start), label] = True
        use_T = kept_N[index_T] & (ends <= n_characters)
        if use_T.any():
            done += int(use_T.sum())
            r_ND = world.activations.gather(torch.from_numpy(index_T[use_T])).float()
            yield Labelled(r_ND, label_TL[use_T], np.full(int(use_T.sum()), group))


def _transfer(world: World, found: Found, units_of_arms: list[list[int]]) -> Iterator[Measurement]:
    """The features of parameters, strings, comments and keywords on programs in other languages."""
    told = load("syntax")
    marks, names = list(told["marks"]), list(told["marks"].values())
    places = [LABELS.index(name) for name in names]
    arms = [
        (world.banks.null if arm == 1 else world.banks.features, [units[place] for place in places])
        for arm, units in enumerate(units_of_arms)
    ]
    for language in (key for key in told if key != "marks"):
        programs = [parse(source, marks) for source in told[language]]
        counted = tally(
            arms, labelled(world.lm, world.banks.features, programs, len(marks), f"syntax, {language}"), len(programs)
        )
        groups = np.arange(len(programs))
        there = np.flatnonzero(counted[0].total_GL.sum(axis=0) > 0)
        labels = [there] * len(arms)
        value, control, difference = compared(counted, labels, groups, world.seed)
        for label in there:
            row = {
                "case_name": CASE,
                "part": f"{names[label]} in {language}",
                "control": "none",
                "unit": arms[0][1][label],
                "rank": 1,
            }
            found.chosen.append(row | {"score_choose": None, "score_report": float(counted[0].f1(groups)[label])})
        main = Measurement(
            f"python_syntax_transfer_{language}",
            f"mean F1 of Python's features of {', '.join(names[each] for each in there)} on {language}", value.value,
            len(programs), len(programs), world.size, value.low, value.high, DIRECTION, control, difference.value, difference.low,
            difference.high, files_sha=digest("syntax"), rows="case_features", figure=FIGURE,
        )  # fmt: skip
        yield from with_random_features(main, beside_random(counted, labels, groups, world.seed))
