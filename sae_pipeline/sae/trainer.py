"""The training of one SAE or of several from one stream: exact steps, Adam, checkpoints that resume bit for bit.

Shapes: N tokens of a batch, D width.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline import progress
from sae_pipeline.errors import UserError
from sae_pipeline.interrupt import StoppedError, deferred_signals
from sae_pipeline.sae import checkpoint as checkpoints
from sae_pipeline.sae import gpu
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.checkpoint import BrokenCheckpointError, Checkpoint
from sae_pipeline.sae.history import History
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.mixing import Mixing, MixingMeter
from sae_pipeline.sae.source import BatchStream

log = logging.getLogger(__name__)
MIXING_EVERY = 20  # steps between two measurements of the stream's mixing


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
    """Owns parameters, optimizer and counters of one SAE. `settings` identify the run: a checkpoint with others is refused.

    `dtype` is that of the large products (see `precision`). `keeps_last`: leave a checkpoint of the finished training in `work`.
    """

    def __init__(
        self, d_model: int, architecture: Architecture, plan: TrainingPlan, settings: dict[str, Any], work: Path,
        dtype: torch.dtype, device: str = "cpu", keeps_last: bool = False,
    ) -> None:  # fmt: skip
        self.architecture, self.plan, self.work, self.device, self.keeps_last = architecture, plan, work, device, keeps_last
        self.identity = settings | {"product_dtype": str(dtype), "checkpoint_format": checkpoints.FORMAT}
        # The stream has a generator of its own: the data order does not depend on the size.
        self.learner = Learner(d_model, plan.n_features, architecture, dtype, 2 * plan.seed, device)
        self.history, self.mixing = History(work, plan.n_steps), Mixing()
        self.steps_done = 0
        self.resumed_at_step = 0
        self.shown = ""

    @property
    def is_done(self) -> bool:
        """Whether every step was made."""
        return self.steps_done == self.plan.n_steps

    def train_on(self, x_ND: Tensor, stream: BatchStream) -> None:
        """One step, and whatever is due after it. Raises `UserError` when the loss stops being a number."""
        self._one_step(x_ND)
        if self.keeps_last if self.is_done else self.steps_done % self.plan.checkpoint_every_steps == 0:
            self.save(stream)
        elif self.is_done or self.history.is_due(self.steps_done):
            self._write_history()

    def save(self, stream: BatchStream) -> None:
        """Write the history and a checkpoint, with the place in `stream`."""
        self._write_history()
        checkpoints.save(self.work, self._checkpoint(stream), self.identity)

    def _one_step(self, x_ND: Tensor) -> None:
        index = self.steps_done
        penalty, learning_rate = self.architecture.penalty(index, self.plan.n_steps), self.plan.learning_rate_at(index)
        if index == 0:
            self.learner.prepare(x_ND)
        result, grad_norm, dead_F = self.learner.learn(x_ND, penalty, learning_rate)
        self.steps_done += 1
        if self.history.wants(index):
            self.history.add({
                "step": index, "n_tokens": self.steps_done * self.plan.batch, "loss": result.loss, "mse": result.mse,
                "l0": result.l0, "explained_variance_batch": result.explained_variance, "dead_fraction": dead_F.float().mean(),
                "learning_rate": learning_rate, "l1": penalty, "grad_norm": grad_norm,
            })  # fmt: skip

    def _write_history(self) -> None:
        last = self.history.write().row(-1, named=True)
        if n_skipped := int(self.learner.n_skipped):
            log.warning("size %d: %d batches were left out so far (docs/training.md, On a GPU)", self.plan.n_features, n_skipped)
        if not last["loss"] < float("inf"):
            raise UserError(
                f"sae/{self.plan.n_features}", f"training diverged: loss {last['loss']} at step {last['step']}",
                "Lower sae.learning_rate.",
            )  # fmt: skip
        self.shown = f"EV {last['explained_variance_batch']:.3f}, L0 {last['l0']:.0f}"

    # --- checkpoints

    def _checkpoint(self, stream: BatchStream) -> Checkpoint:
        stream_tensors, stream_values = stream.state()
        tensors = {f"stream.{name}": value for name, value in stream_tensors.items()}
        values = {
            "stream": stream_values, "architecture": self.architecture.state(), "mixing": self.mixing.state(),
            "circumstances": circumstances(self.device),
        }  # fmt: skip
        return Checkpoint(self.steps_done, tensors | self.learner.tensors(), values)

    def resume(self) -> Checkpoint | None:
        """Go on from the checkpoint in `work`, if there is a whole one; returned, because it also says where the stream stood."""
        try:
            found = checkpoints.load(self.work, self.identity)
        except BrokenCheckpointError as error:
            log.warning("training of size %d starts over: %s", self.plan.n_features, error)
            progress.say(f"  sae/{self.plan.n_features}: the checkpoint is refused and training starts over: {error}")
            checkpoints.remove(self.work)
            return None
        if found is None:
            return None
        self.learner.load(found.tensors)
        self.architecture.load_state(found.values["architecture"])
        self.mixing = Mixing(**found.values["mixing"])
        self._say_what_differs(found.values["circumstances"])
        self.history.resume(found.step)
        self.steps_done = self.resumed_at_step = found.step
        return found

    def _say_what_differs(self, before: dict[str, Any]) -> None:
        """Other threads, versions or processors round sums otherwise: no reason to lose a training, but one to say so."""
        now = circumstances(self.device)
        if differing := [f"{name} {before.get(name)}, now {now[name]}" for name in now if now[name] != before.get(name)]:
            what = f"training of size {self.plan.n_features} goes on where it stood under other circumstances"
            said = f"{what} ({'; '.join(differing)}): its last bits will not be those of an uninterrupted run"
            log.warning(said)
            progress.say(f"  {said}")


def circumstances(device: str) -> dict[str, Any]:
    """What the last bits of a training depend on beside its settings."""
    on_cpu = {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    return {"device": torch.device(device).type, "torch": torch.__version__, **(on_cpu if device == "cpu" else {})}


def train_together(trainers: list[Trainer], stream: BatchStream, meter: MixingMeter | None = None) -> None:
    """Train every SAE to its end from one pass over the stream: each gets the same bits as if it were trained alone.

    Trainers may come from checkpoints of different steps: those behind train until they meet the others. SIGTERM and SIGINT save
    checkpoints of all after the current step, or instead of the next one where that waits for activations to be computed, then
    take their usual effect. Raises the `UserError` of the first trainer when its checkpoint is refused or it diverges; another
    one is then left behind with a warning. `ValueError` when one was planned for other batches than the stream's.
    """
    if others := {trainer.plan.batch for trainer in trainers} - {stream.batch}:
        raise ValueError(f"the stream has batches of {stream.batch} tokens, not {sorted(others)}")
    found = _resumed(trainers)
    active = [trainer for trainer in found if not trainer.is_done]
    batch, n_steps = trainers[0].plan.batch, max(trainer.plan.n_steps for trainer in trainers)
    done = min((trainer.steps_done for trainer in active), default=n_steps)
    name = "sae/" + "+".join(str(trainer.plan.n_features) for trainer in trainers)
    with deferred_signals() as asked, progress.bar(name, n_steps * batch, "tokens", initial=done * batch) as bar:
        while active and asked.number is None:
            behind = min(trainer.steps_done for trainer in active)
            group = [trainer for trainer in active if trainer.steps_done == behind]
            try:
                if stream.batches_done != behind:
                    _move(stream, next(found[trainer] for trainer in group if trainer.resumed_at_step == behind))
                x_ND = gpu.sent(stream.next(), group[0].device)
            except StoppedError:
                break
            measured = meter.of(stream.token_index_N) if meter and behind % MIXING_EVERY == 0 else Mixing()
            for trainer in group:
                trainer.mixing.add(measured)
                try:
                    trainer.train_on(x_ND, stream)
                except UserError as error:
                    _unless_first(trainer, trainers, error)
                    active.remove(trainer)
            active = [trainer for trainer in active if not trainer.is_done]
            bar.set_postfix_str(trainers[0].shown, refresh=False)
            bar.update(batch)
        if asked.number is not None:
            # Here and not in the loop: the signal may come while the bar is drawn. Who stands elsewhere has a checkpoint.
            for trainer in active:
                if trainer.steps_done == stream.batches_done > 0:
                    trainer.save(stream)


def _resumed(trainers: list[Trainer]) -> dict[Trainer, Checkpoint | None]:
    found = {}
    for trainer in trainers:
        try:
            found[trainer] = trainer.resume()
        except UserError as error:
            _unless_first(trainer, trainers, error)
    return found


def _unless_first(trainer: Trainer, trainers: list[Trainer], error: UserError) -> None:
    """A companion must not hold up the SAE that was asked for; its own run will meet the error."""
    if trainer is trainers[0]:
        raise error
    log.warning("%s", error)


def _move(stream: BatchStream, checkpoint: Checkpoint | None) -> None:
    assert checkpoint is not None
    tensors = {name.removeprefix("stream."): value for name, value in checkpoint.tensors.items() if name.startswith("stream.")}
    stream.load_state(tensors, checkpoint.values["stream"])
