"""The training loop of one SAE: shuffled batches, exact steps, Adam, checkpoints that resume bit for bit.

Shapes: N tokens of a batch, F features, D width.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_pipeline import progress
from sae_pipeline.errors import UserError
from sae_pipeline.sae import checkpoint as checkpoints
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.checkpoint import BrokenCheckpointError, Checkpoint
from sae_pipeline.sae.history import History
from sae_pipeline.sae.interrupt import deferred_signals
from sae_pipeline.sae.parameters import Parameters, initial_parameters
from sae_pipeline.sae.source import ActivationSource, ShuffledOrder
from sae_pipeline.sae.step import Step

log = logging.getLogger(__name__)
CLIP_NORM = 1.0
# A feature counts as dead while training when it was silent for this many tokens.
DEAD_AFTER_TOKENS = 100_000


@dataclass(frozen=True)
class TrainingPlan:
    """Everything but data and architecture. `learning_rate` decays linearly to 0 over the last `decay_share` of the steps."""

    n_features: int
    n_steps: int
    batch: int
    learning_rate: float
    decay_share: float
    checkpoint_every_steps: int
    seed: int

    def learning_rate_at(self, step: int) -> float:
        """Constant, then linear to 0 (April 2024 update: over the last 20 %)."""
        left = (self.n_steps - step) / max(1.0, self.decay_share * self.n_steps)
        return self.learning_rate * min(1.0, left)


class Trainer:
    """Owns parameters, optimizer, data order and counters. `run` trains to the end, going on from a checkpoint in `work`.

    `settings` identify the run: a checkpoint with others is refused. `dtype` is that of the large products (see `precision`).
    """

    def __init__(
        self, source: ActivationSource, architecture: Architecture, plan: TrainingPlan, settings: dict[str, Any], work: Path,
        dtype: torch.dtype, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.source, self.architecture, self.plan, self.work, self.device = source, architecture, plan, work, device
        self.identity = settings | {"product_dtype": str(dtype), "checkpoint_format": checkpoints.FORMAT}
        # Two generators: the data order must not depend on the size, so that all sizes can share one stream.
        self.parameters: Parameters = initial_parameters(
            plan.n_features,
            source.d_model,
            architecture.initial_decoder_norm,
            torch.Generator().manual_seed(2 * plan.seed),
            device,
            architecture.own_parameters(plan.n_features),
        )
        self.order = ShuffledOrder(source.n_tokens, plan.batch, torch.Generator().manual_seed(2 * plan.seed + 1))
        self.optimizer = torch.optim.Adam(self.parameters.named().values(), lr=plan.learning_rate, betas=(0.9, 0.999), fused=True)
        self.tokens_since_active_F = torch.zeros(plan.n_features, dtype=torch.int64, device=device)
        self.history = History(work, plan.n_steps)
        self.step = Step(self.parameters, architecture, dtype)
        self.steps_done = 0
        self.resumed_at_step = 0

    def run(self) -> None:
        """Train until `plan.n_steps`. Raises `UserError` when the loss stops being a number.

        SIGTERM and SIGINT save a checkpoint after the current step, then take their usual effect.
        """
        self._resume()
        n_tokens, batch = self.plan.n_steps * self.plan.batch, self.plan.batch
        with (
            deferred_signals() as asked,
            progress.bar(f"sae/{self.plan.n_features}", n_tokens, "tokens", initial=self.steps_done * batch) as bar,
        ):
            while self.steps_done < self.plan.n_steps and asked.number is None:
                self._one_step()
                ended = self.steps_done == self.plan.n_steps
                saves = not ended and (asked.number is not None or self.steps_done % self.plan.checkpoint_every_steps == 0)
                if ended or saves or self.history.is_due(self.steps_done):
                    self._write_history(bar)
                if saves:
                    checkpoints.save(self.work, self._checkpoint(), self.identity)
                bar.update(batch)

    def _one_step(self) -> None:
        index = self.steps_done
        x_ND = self.source.batch(self.order.next()).to(self.device)
        penalty, learning_rate = self.architecture.penalty(index, self.plan.n_steps), self.plan.learning_rate_at(index)
        dead_F = self.tokens_since_active_F >= DEAD_AFTER_TOKENS
        if index == 0:
            with torch.no_grad():
                self.architecture.prepare(self.parameters, x_ND)
        result = self.step(x_ND, penalty, dead_F if self.architecture.revives_dead_features else None)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.named().values(), CLIP_NORM)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.tokens_since_active_F += self.plan.batch
        self.tokens_since_active_F.masked_fill_(result.count_F > 0, 0)
        self.steps_done += 1
        if self.history.wants(index):
            self.history.add({
                "step": index, "n_tokens": self.steps_done * self.plan.batch, "loss": result.loss, "mse": result.mse,
                "l0": result.l0, "explained_variance_batch": result.explained_variance, "dead_fraction": dead_F.float().mean(),
                "learning_rate": learning_rate, "l1": penalty, "grad_norm": grad_norm,
            })  # fmt: skip

    def _write_history(self, bar: Any) -> None:
        last = self.history.write().row(-1, named=True)
        if not last["loss"] < float("inf"):
            raise UserError(
                f"sae/{self.plan.n_features}", f"training diverged: loss {last['loss']} at step {last['step']}",
                "Lower sae.learning_rate.",
            )  # fmt: skip
        bar.set_postfix_str(f"EV {last['explained_variance_batch']:.3f}, L0 {last['l0']:.0f}")

    # --- checkpoints

    def _checkpoint(self) -> Checkpoint:
        order_generator, cursor = self.order.state()
        tensors = {"order_generator": order_generator, "tokens_since_active_F": self.tokens_since_active_F}
        for name, parameter in self.parameters.named().items():
            tensors[name] = parameter.detach()
            tensors |= {f"{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        values = {"cursor": cursor, "architecture": self.architecture.state()}
        return Checkpoint(self.steps_done, tensors, values)

    def _resume(self) -> None:
        try:
            found = checkpoints.load(self.work, self.identity)
        except BrokenCheckpointError as error:
            log.warning("training of size %d starts over: %s", self.plan.n_features, error)
            progress.say(f"  sae/{self.plan.n_features}: the checkpoint is refused and training starts over: {error}")
            checkpoints.remove(self.work)
            return
        if found is None:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.named().items():
                parameter.copy_(found.tensors[name])
                self.optimizer.state[parameter] = {
                    # Copies of our own: a file's buffer is aligned otherwise, and then sums may round otherwise.
                    key: found.tensors[f"{name}.{key}"].to(self.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
            self.tokens_since_active_F.copy_(found.tensors["tokens_since_active_F"])
        self.order.load_state(found.tensors["order_generator"].clone(), found.values["cursor"])
        self.architecture.load_state(found.values["architecture"])
        self.history.resume(found.step)
        self.steps_done = self.resumed_at_step = found.step
