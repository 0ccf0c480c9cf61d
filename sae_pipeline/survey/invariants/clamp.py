"""Checklist row 28: a clamp adds (c - f) W_dec and nothing else; with c = f the model says what it said.

Everything in float32. Shapes: T positions of a block, D width, V vocabulary.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.blocks import find_anatomy
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Push
from sae_pipeline.survey.invariants.space import random_examples
from sae_pipeline.survey.measurement import Measurement


def in_float32(lm: LanguageModel) -> LanguageModel:
    """The model itself when it computes in float32, else a copy of it that does."""
    if lm.dtype == torch.float32:
        return lm
    model = copy.deepcopy(lm.model).float()
    return LanguageModel(model, find_anatomy(model, lm.n_blocks), lm.tokens, lm.hook, "float32: the clamp is tested in it")


def clamp_error(
    corpus: CorpusReader, reader: ActivationReader, lm: LanguageModel, saes: Mapping[int, SparseAutoencoder],
    feature_stats: Mapping[int, Path], n_features: int, seed: int,
) -> Measurement:  # fmt: skip
    """The larger of max |x' - x - (c - f) W_dec| over a block's positions (c twice the maximum, scaled space) and of
    max |logits' - logits| when c = f at one position, over random live features of every size.

    f comes from the SAE's own encoder, not from the intervention. The control puts the reconstruction in the activation's
    place, as a clamp that loses the error term would.
    """
    lm = in_float32(lm)
    moved, said, lost, n = 0.0, 0.0, [], 0
    for size, sae in saes.items():
        for feature, token_index, _, _, maximum in random_examples(feature_stats[size], n_features, seed + 1):
            ids_1T = torch.from_numpy(corpus.token_ids_BT[token_index // corpus.context][None])
            keep_T = reader.reason_BT[token_index // corpus.context] == KEEP
            at = token_index % corpus.context
            r_1TD = lm.residual(ids_1T).cpu()
            codes = sae.encode_sparse(r_1TD[0])
            mine = codes.feature == feature
            f_T = torch.zeros(corpus.context).index_put_((codes.token[mine].cpu(),), codes.value[mine].cpu())
            gain_T1 = 1 / sae.encoder_input(r_1TD[0]).gain * torch.ones(corpus.context, 1)
            steered_1TD = _clamped(sae, feature, 2 * maximum, reader)(r_1TD, ids_1T, 0)
            wanted_TD = (2 * maximum - f_T)[:, None] * sae.W_dec_FD[feature].cpu()
            moved = max(moved, float(((steered_1TD - r_1TD)[0] / gain_T1 - wanted_TD)[keep_T].abs().max()))

            unmoved_1TD, without_error_1TD = r_1TD.clone(), r_1TD.clone()
            here_11D = r_1TD[:, at : at + 1]
            unmoved_1TD[:, at : at + 1] = _clamped(sae, feature, float(f_T[at]), reader)(here_11D, None, 0)
            without_error_1TD[:, at] = sae.reconstruct(here_11D[0]).cpu()
            before_TV, after_TV, lost_TV = (
                lm.logits_from(each, ids_1T)[0].float() for each in (r_1TD, unmoved_1TD, without_error_1TD)
            )
            said = max(said, float((after_TV - before_TV).abs().max()))
            lost.append(float((lost_TV - before_TV).abs().max()))
            n += 1
    return Measurement(
        "clamp_error", "larger of |x' - x - (c - f) W_dec| and, with c = f, of the change of a logit, float32",
        max(moved, said), n, n_features * len(saes), control="the error term left out, with c = f (median change of a logit)",
        control_value=float(torch.tensor(lost).median()) if lost else None,
        why=f"|x' - x - (c - f) W_dec| {moved:.2g}, change of a logit {said:.2g}; a bound, so without an interval",
        rows="survey_measurements",
    )  # fmt: skip


def _clamped(sae: SparseAutoencoder, feature: int, value: float, reader: ActivationReader) -> Intervention:
    return Intervention(sae, [[Push(value, "clamp", feature)]], reader.threshold_norm, "not_massive", device=torch.device("cpu"))
