"""What the model's predictions keep with a dictionary's reconstruction in place of its activations: a trained SAE and nulls.

The random model's SAE has no place here: it reconstructs another model.

Shapes: N tokens, D width, R resamples, K documents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.resampling import draws, interval
from sae_pipeline.sae.metrics import ce_recovered
from sae_pipeline.sae.splice import Reconstruct, SpliceResult, splice
from sae_pipeline.survey.experiments.held_out import Dictionary, difference
from sae_pipeline.survey.measurement import Measurement, too_few

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.language_model.model import LanguageModel

EVERY = 4  # blocks of the main run's sample: differences between these dictionaries are large
METRIC = "share of cross-entropy recovered against zero ablation"


def splices(
    corpus: "CorpusReader", reader: "ActivationReader", language_model: "LanguageModel", dictionaries: Mapping[str, Dictionary]
) -> dict[str, SpliceResult]:
    """Each dictionary in the model, on the same held-out tokens."""
    return {
        name: splice(corpus, reader, _raw(dictionary, reader), language_model, name, EVERY)
        for name, dictionary in dictionaries.items()
    }


def _raw(dictionary: Dictionary, reader: "ActivationReader") -> Reconstruct:
    @torch.no_grad()
    def reconstruct(r_ND: Tensor) -> Tensor:
        return dictionary(reader.scaled(r_ND).cpu(), r_ND)[0] / reader.scale + reader.mean_D

    return reconstruct


@dataclass(frozen=True)
class _Share:
    """Cross-entropy recovered of one dictionary: as measured, and with documents drawn."""

    value: float | None
    value_R: np.ndarray

    @classmethod
    def of(cls, result: SpliceResult, seed: int) -> "_Share":
        by_document = result.tokens.group_by("doc_id").agg(pl.all().sum()).sort("doc_id")
        weight_RK = draws(by_document.height, seed)
        clean_R, spliced_R, zero_R = (weight_RK @ by_document[name].to_numpy() for name in ("ce_clean", "ce_spliced", "ce_zero"))
        harm_R = zero_R - clean_R
        share_R = np.divide(zero_R - spliced_R, harm_R, out=np.full_like(harm_R, np.nan), where=harm_R > 0)
        return cls(ce_recovered(result.ce_clean, result.ce_spliced, result.ce_zero), share_R)


def splices_measured(own: SpliceResult, nulls: Mapping[str, SpliceResult], seed: int, figure: str) -> list[Measurement]:
    """The trained SAE beside every null, paired by document."""
    share, measured = _Share.of(own, seed), []
    for name, result in nulls.items():
        null, label = _Share.of(result, seed), f"ce_recovered_over_{name.replace(' ', '_')}"
        if share.value is None or null.value is None:
            few = too_few("held-out samples on which zero ablation does harm", 0, 1)
            measured.append(Measurement(label, METRIC, None, 0, own.n_tokens, control=name, **few))
            continue
        (low, high), (difference_low, difference_high) = interval(share.value_R), difference(share.value_R, null.value_R)
        measured.append(Measurement(
            label, METRIC, share.value, own.n_tokens, own.n_tokens, low=low, high=high, control=name, control_value=null.value,
            difference_low=difference_low, difference_high=difference_high, rows="null_model_reconstruction", figure=figure,
            why="an SAE of the smallest size, trained by the same recipe as the frozen one; one seed",
        ))  # fmt: skip
    return measured
