"""Checklist rows 2 and 11: what the training logged against the recipe's formulas, and how well its batches were mixed.

Recipe (April 2024 update): learning rate constant, then linearly to 0 over the last 20 % of the steps; lambda linearly from 0
over the first 5 %; gradients clipped to norm 1; W_enc = W_dec transposed, biases 0.

Shapes: N tokens of a batch, S logged steps.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.resampling import mean_interval
from sae_pipeline.sae.history import read_history
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.names import has_k
from sae_pipeline.sae.parameters import initial_parameters
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.source import PermutedStream, RingStream
from sae_pipeline.survey.invariants.loss import L1
from sae_pipeline.survey.measurement import Measurement, too_few

CLIP, WARMUP, DECAY = 1.0, 0.05, 0.2
OURS = "SAEs trained here, with a history"
NOT_OURS = "the SAE is imported: how it was trained is not ours to check"
NOT_LOGGED = (
    "the history holds learning rate, lambda and the gradient norm before clipping; see clipping_error, initialisation_error"
)


def schedule_error(sae_folders: Mapping[int, Path], configs: Mapping[int, dict[str, Any]]) -> Measurement:
    """Largest difference of a logged learning rate or lambda from its formula, as a share of its peak, over all sizes."""
    worst, constant, n_rows, without = 0.0, 0.0, 0, set()
    for size, folder in sae_folders.items():
        config, history = configs[size], read_history(folder)
        if "n_steps" not in config or not history.height:
            return Measurement(
                "schedule_error", "logged schedules against their formulas", None, 0, len(sae_folders), why=NOT_OURS,
                rows="training_history", **too_few(OURS, 0, 1),
            )  # fmt: skip
        step_S, n_steps, peak = history["step"].to_numpy().astype(np.float64), config["n_steps"], config["learning_rate"]
        rate_S = peak * np.minimum(1.0, (n_steps - step_S) / max(1.0, DECAY * n_steps))
        errors = [np.abs(history["learning_rate"].to_numpy() - rate_S).max() / peak]
        constant = max(constant, float(np.abs(history["learning_rate"].to_numpy() - peak).max() / peak))
        if config["architecture"] in ("relu_l1", "gated"):
            peak_l1 = config["l1"] / (1 - config["center_share"]) ** 0.5
            l1_S = peak_l1 * np.minimum(1.0, step_S / max(1.0, WARMUP * n_steps))
            errors.append(np.abs(history["l1"].to_numpy() - l1_S).max() / peak_l1)
        elif has_k(config["architecture"]):
            errors.append(np.abs(history["l1"].to_numpy()).max())  # these have no penalty
        else:
            without.add(config["architecture"])
        worst, n_rows = max(worst, float(max(errors))), n_rows + history.height
    of_its_own = f"; lambda of {', '.join(sorted(without))} has a schedule of its own" if without else ""
    return Measurement(
        "schedule_error", "largest relative difference of logged learning rate and lambda from their formulas", worst,
        n_rows, n_rows, control="a constant learning rate", control_value=constant, why=NOT_LOGGED + of_its_own,
        rows="training_history",
    )  # fmt: skip


def clipping_error(x_ND: Tensor, seed: int) -> Measurement:
    """How far beyond norm 1 the gradient of a first step is after clipping."""
    learner = Learner(x_ND.shape[1], 256, ReluL1(L1), torch.float32, seed)
    _, before, _ = learner.learn(x_ND, L1, 1e-4)
    gradients = [each.grad for each in learner.parameters.named().values() if each.grad is not None]
    after = float(torch.stack([each.double().square().sum() for each in gradients]).sum().sqrt())
    return Measurement(
        "clipping_error", "gradient norm after clipping, minus 1", max(0.0, after - CLIP), 1, 1, control="before clipping",
        control_value=max(0.0, float(before) - CLIP), why="one step at the initial parameters",
    )  # fmt: skip


@torch.no_grad()
def initialisation_error(d_model: int, seed: int) -> Measurement:
    """Largest departure of initial parameters from W_enc = W_dec transposed of norm 0.1, biases 0."""
    p = initial_parameters(256, d_model, ReluL1.initial_decoder_norm, torch.Generator().manual_seed(seed), "cpu")
    norm_error = (p.W_dec_FD.norm(dim=1) - 0.1).abs().max()
    departures = [norm_error, (p.W_enc_FD - p.W_dec_FD).abs().max(), p.b_enc_F.abs().max(), p.b_dec_D.abs().max()]
    return Measurement(
        "initialisation_error", "largest absolute departure from the recipe", float(torch.stack(departures).max()), 256, 256,
        control="encoder and decoder drawn apart", control_value=float((p.W_enc_FD - p.W_dec_FD.roll(1, 0)).abs().max()),
        why="made anew: the first weights of the study's SAEs are not kept",
    )  # fmt: skip


def distinct_documents_per_batch(reader: ActivationReader, config: dict[str, Any], n_batches: int) -> Measurement:
    """Distinct documents in the batches that the training really had, over the exact mean of uniform draws of as many tokens."""
    if "n_steps" not in config:
        return Measurement(
            "distinct_documents_per_batch", "relative to a uniform draw", None, 0, n_batches, why=NOT_OURS,
            **too_few(OURS, 0, 1),
        )  # fmt: skip
    batch, seed = config["batch"], 2 * config["seed"] + 1
    stream = RingStream(reader, batch, config["ring"], seed) if reader.is_streamed else PermutedStream(reader, batch, seed)
    document = reader.document_of_token
    train = reader.token_index("train")
    expected = expected_distinct(torch.unique(document[train], return_counts=True)[1], batch)
    n_batches = min(n_batches, len(train) // batch)
    shuffled, in_order = np.empty(n_batches), np.empty(n_batches)
    for i in range(n_batches):
        stream.next()
        shuffled[i] = len(document[stream.token_index_N].unique()) / expected
        in_order[i] = len(document[train[i * batch : (i + 1) * batch]].unique()) / expected
    low, high = mean_interval(shuffled, config["seed"])
    difference = mean_interval(shuffled - in_order, config["seed"])
    return Measurement(
        "distinct_documents_per_batch", "distinct documents in a batch, relative to a uniform draw over tokens",
        float(shuffled.mean()), n_batches, n_batches, low=low, high=high, control="reading in order, without the shuffle",
        control_value=float(in_order.mean()), difference_low=difference[0], difference_high=difference[1],
        why=f"batches of {batch} tokens; a uniform draw has {expected:.0f} documents on average", rows="survey_measurements",
    )  # fmt: skip


def expected_distinct(n_tokens_of_document: Tensor, batch: int) -> float:
    """Exact mean number of distinct documents in a draw of b tokens without replacement: sum of 1 - C(n - n_d, b) / C(n, b)."""
    n = n_tokens_of_document.sum().double()
    rest = n - n_tokens_of_document
    # log C(m, b) up to the term in b, which cancels; a document without which b tokens cannot be drawn is always there.
    log_none = _log_ways(rest.clamp(min=batch), batch) - _log_ways(n, batch)
    return float((1 - torch.where(rest >= batch, log_none.exp(), 0.0)).sum())


def _log_ways(n: Tensor, k: int) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(n - k + 1)
