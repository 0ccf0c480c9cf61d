"""What the plan counts with: the model's shape, the token budget, and rates measured on the demo study with two cores."""

import os
from dataclasses import dataclass
from functools import cached_property

from sae_pipeline.study import Study

# Floating-point operations per second that this code reaches on one core of a server CPU with bfloat16 instructions.
MODEL_RATE_PER_CORE = 1.65e11
SAE_RATE_PER_CORE = 1.4e11
GENERATION_RATE_PER_CORE = 6.0e10  # key-value-cached steps are bound by memory, not arithmetic
SAE_TOKEN_CORE_SECONDS = 2.5e-5  # of a training token, whatever the size: reading, sparse gradients, optimizer


@dataclass(frozen=True)
class Shape:
    """What the plan needs to know about a model."""

    d_model: int
    d_mlp: int
    n_blocks: int
    vocab_size: int

    @property
    def block_parameters(self) -> int:
        """Parameters of one block (attention without grouping: an upper bound)."""
        return 4 * self.d_model**2 + 3 * self.d_model * self.d_mlp

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.n_blocks * self.block_parameters + self.vocab_size * self.d_model


def n_tokens(study: Study) -> int:
    """The token budget of the corpus."""
    return sum(source.tokens for source in study.corpus.sources)


@dataclass(frozen=True)
class Work:
    """One artefact's floating-point operations, per token where not said otherwise, and this machine's rates."""

    study: Study
    shape: Shape
    size: int | None

    @cached_property
    def cores(self) -> int:
        """Cores that this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @cached_property
    def tokens(self) -> int:
        """Of the corpus."""
        return n_tokens(self.study)

    @property
    def train_tokens(self) -> float:
        """Those that are not held out."""
        return self.tokens * (1 - self.study.corpus.held_out)

    @property
    def to_hook(self) -> float:
        """The model up to the hook."""
        return 2.0 * self.shape.block_parameters * (self.study.hook.after_block + 1)

    @property
    def whole(self) -> float:
        """The whole model."""
        return 2.0 * self.shape.parameters

    def encode(self, size: int | None = None) -> float:
        """The encoder of `size`, by default of this artefact's."""
        return 2.0 * self.shape.d_model * (size or self.size or 0)

    @property
    def model_rate(self) -> float:
        """Operations a second in the model."""
        return MODEL_RATE_PER_CORE * self.cores

    @property
    def sae_rate(self) -> float:
        """Operations a second in an SAE."""
        return SAE_RATE_PER_CORE * self.cores

    @property
    def generation_rate(self) -> float:
        """Operations a second while writing texts."""
        return GENERATION_RATE_PER_CORE * self.cores
