"""Generate many small arms in large batches, a finished batch at a time on disk.

A request is one completion: an arm (what is steered, how strongly), a prompt, a sample number. Requests of different features
share a batch; samples of one prompt share its reading. Every batch is one file, written whole, so that a killed run repeats at
most one batch; a request's random numbers come from its own name and not from its place, so a resumed run writes the same bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import polars as pl

from sae_pipeline.device import halving
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.fluency import cross_entropies, repetition
from sae_pipeline.steering.interventions import Intervention, Positions, Push
from sae_pipeline.steering.prompts import Prompt

ROWS = {
    "feature": pl.Int32, "unit_id": pl.Int32, "target_feature": pl.Int32, "control": pl.String, "mode": pl.String,
    "factor": pl.Float64, "half": pl.String, "prompt_id": pl.Int16, "sample": pl.Int16, "prompt": pl.String,
    "completion": pl.String, "n_tokens": pl.Int32, "cross_entropy": pl.Float64, "repetition": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """What is done to the model. `push` None: nothing is steered (`baseline`, `prompt_only`)."""

    control: str
    mode: str = "none"
    unit_id: int | None = None
    feature: int | None = None
    target_feature: int | None = None
    factor: float | None = None
    push: Push | None = field(default=None, compare=False)
    template: str = "{question}"
    terms: str = ""

    def prompt(self, question: str) -> str:
        """The question as this arm asks it."""
        return self.template.format(question=question, terms=self.terms)


@dataclass(frozen=True)
class Request:
    """One completion to generate."""

    arm: Arm
    prompt: Prompt
    sample: int

    def seed(self, study_seed: int) -> int:
        """The same for all factors and modes of a unit: dose curves then differ by the dose alone."""
        name = f"{study_seed}/{self.arm.control}/{self.arm.unit_id}/{self.prompt.prompt_id}/{self.sample}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


@dataclass(frozen=True)
class Generator:
    """Settings of every generation of a run, and the folder of finished batches."""

    lm: LanguageModel
    sae: SparseAutoencoder
    folder: Path
    max_new_tokens: int
    temperature: float
    positions: Positions
    seed: int
    what: str
    batch_rows: int

    def run(self, name: str, requests: Sequence[Request]) -> pl.DataFrame:
        """Rows of `requests`, generated or read from finished batches called `name`, in the order of `requests`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        frames, n_at_once = [], self.batch_rows
        with bar(f"{self.what}, {name}", len(requests) * self.max_new_tokens, "tokens") as progress:
            for i, batch in enumerate(_parts(requests, self.batch_rows)):
                file = self.folder / f"{name}-{i:04d}.parquet"
                frame = _finished(file, batch)
                if frame is None:

                    def generate(n_rows: int, batch: list[Request] = batch, done: float = progress.n) -> tuple[int, pl.DataFrame]:
                        progress.n = done  # after running out of memory the batch starts again, in smaller parts
                        return n_rows, pl.concat([self._generate(part, progress) for part in _parts(batch, n_rows)])

                    n_at_once, frame = halving(n_at_once, generate)
                    partial = file.with_suffix(".partial")
                    frame.write_parquet(partial)
                    partial.replace(file)
                else:
                    progress.update(len(batch) * self.max_new_tokens)
                frames.append(frame)
        return pl.concat(frames) if frames else pl.DataFrame(schema=ROWS)

    def _generate(self, batch: list[Request], progress) -> pl.DataFrame:
        texts = [list(group) for _, group in groupby(batch, key=lambda request: (request.arm, request.prompt))]
        prompts = [self.lm.chat(group[0].arm.prompt(group[0].prompt.text)) for group in texts]
        repeats = [len(group) for group in texts]
        pushes = [[group[0].arm.push] if group[0].arm.push else [] for group in texts]
        edit = None
        if any(pushes):
            threshold_norm = self.sae.config["threshold_norm"]
            edit = Intervention(self.sae, pushes, threshold_norm, self.positions, self.lm.device, repeats)
        completions = self.lm.generate(
            prompts, self.max_new_tokens, self.temperature, [request.seed(self.seed) for request in batch], edit,
            on_token=lambda row, token_id: progress.update(1), repeats=repeats,
        )  # fmt: skip
        # Texts that ended early count as done.
        progress.update(sum(self.max_new_tokens - len(completion) for completion in completions))
        prompt_of = [prompt for prompt, n in zip(prompts, repeats, strict=True) for _ in range(n)]
        nats = cross_entropies(self.lm, prompt_of, completions)
        rows = [
            (*_key(request), request.arm.prompt(request.prompt.text), self.lm.decode(ids), len(ids), nats[i], repetition(ids))
            for i, (request, ids) in enumerate(zip(batch, completions, strict=True))
        ]
        return pl.DataFrame(rows, schema=ROWS, orient="row")


def _key(request: Request) -> tuple:
    arm, prompt = request.arm, request.prompt
    return (
        arm.feature, arm.unit_id, arm.target_feature, arm.control, arm.mode, arm.factor,
        prompt.half, prompt.prompt_id, request.sample,
    )  # fmt: skip


def _parts(requests: Sequence[Request], n_rows: int) -> Iterator[list[Request]]:
    for start in range(0, len(requests), n_rows):
        yield list(requests[start : start + n_rows])


def _finished(file: Path, batch: list[Request]) -> pl.DataFrame | None:
    """The batch's file, if it is there and holds exactly these requests."""
    if not file.is_file():
        return None
    frame = pl.read_parquet(file)
    return frame if [row[:9] for row in frame.iter_rows()] == [_key(request) for request in batch] else None
