"""Look for features in a finished study with texts of one's own: for scripts, notebooks and `sae-pipeline search`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sae_pipeline.api import OpenStudy
from sae_pipeline.errors import UserError
from sae_pipeline.survey.search import methods
from sae_pipeline.survey.search.banks import feature_bank
from sae_pipeline.survey.search.reading import means, read_texts, strongest


class FoundFeature(NamedTuple):
    """One find. What the score is depends on the method (`sae_pipeline.survey.search.methods`)."""

    feature: int
    score: float
    explanation: str | None


def find_features(
    opened: OpenStudy, size: int, positives: Sequence[str], negatives: Sequence[str] = (), method: str = "prompt_sets",
    label: str | None = None, other: str | None = None, top: int = 10, seed: int = 0,
) -> list[FoundFeature]:  # fmt: skip
    """The `top` features for texts with a concept (`positives`) and without it (`negatives`), best first.

    `single_prompt` takes one positive text; `attribution` the positive texts and two single-token words; the others want both
    kinds of texts. Raises `UserError` for what does not fit.
    """
    positive_I = np.repeat([True, False], [len(positives), len(negatives)])
    _check(method, positives, negatives, label, other)
    lm, bank, bos = opened.lm, feature_bank(opened.sae(size)), opened.study.corpus.bos == "prepend"
    if method == "attribution":
        assert label is not None and other is not None
        (score_F,) = methods.attribution(lm, [bank], positives, label, other, bos, question="")
    else:
        reads = read_texts(lm, bank, [*positives, *negatives], bos)
        if method == "geometry":
            score_F = methods.geometry(bank.rows_FD, means(bank, reads), positive_I)
        else:
            value_IF = strongest(bank, reads)
            score_F = {
                "single_prompt": lambda: methods.single_prompt(value_IF[0]),
                "prompt_sets": lambda: methods.prompt_sets(value_IF, positive_I),
                "classifier": lambda: methods.classifier(value_IF, positive_I, seed),
            }[method]()
    explanations = opened.explanations(size)
    best = [int(feature) for feature in np.argsort(-score_F, kind="stable")[:top] if score_F[feature] > 0]
    return [FoundFeature(feature, float(score_F[feature]), explanations.get(feature)) for feature in best]


def _check(method: str, positives: Sequence[str], negatives: Sequence[str], label: str | None, other: str | None) -> None:
    if method not in methods.METHODS:
        raise UserError("--method", f"no method {method!r}", f"Give one of {', '.join(methods.METHODS)}.")
    if not positives:
        raise UserError("--positive", "no text is given", "Name at least one text that has the concept.")
    if method == "single_prompt" and (len(positives) > 1 or negatives):
        raise UserError("--method", "single_prompt reads one text", "Use prompt_sets for several.")
    if method in ("geometry", "classifier", "prompt_sets") and not negatives:
        raise UserError("--negative", "no text is given", f"{method} compares texts with the concept and texts without it.")
    if method == "attribution" and (label is None or other is None):
        raise UserError("--label", "attribution compares two next tokens", "Give --label and --other.")
