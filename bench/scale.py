"""The formulas of docs/scale.md as functions; a test computes the document's numbers with them.

Bytes and operations. D width, F features, T tokens, k active features, N tokens of a batch, P parameters below the hook, M
neurons.
"""

from dataclasses import dataclass

STATE_BYTES = 16  # float32: weight, gradient, two moments
GPU_BYTES = STATE_BYTES + 6  # + bfloat16 copy, + sums of gradients in float32 (in bfloat16 on a CPU)


@dataclass(frozen=True)
class Scale:
    """One study, one SAE. `n_blocks_parameters`: P."""

    d_model: int
    n_features: int
    n_tokens: float
    k: int
    batch: int = 0
    n_blocks_parameters: float = 0
    n_neurons: int = 0

    @property
    def n_parameters(self) -> float:
        """Of the two matrices."""
        return 2 * self.d_model * self.n_features

    @property
    def harvest_operations(self) -> float:
        """One pass of the model up to the hook."""
        return 2 * self.n_blocks_parameters * self.n_tokens

    @property
    def shard_bytes(self) -> float:
        """`cached`, bfloat16."""
        return self.n_tokens * (2 * (self.d_model + self.n_neurons) + 15)

    @property
    def stream_bytes(self) -> float:
        """`streaming`: on disk."""
        return 15 * self.n_tokens

    @property
    def order_bytes(self) -> float:
        """In memory while training: positions of training tokens, and their permutation."""
        return 16 * self.n_tokens

    @property
    def encoder_operations(self) -> float:
        """One epoch of training, and one pass of statistics."""
        return self.n_parameters * self.n_tokens

    @property
    def step_bytes(self) -> float:
        """At most, beside state and tile."""
        return self.batch * (16 * self.d_model + 64 * self.k)

    @property
    def gpu_tile_bytes(self) -> float:
        """Pre-activations of a GPU's tile: at least 512 tokens at a time, bfloat16."""
        return 2 * max(512, 2**24 // self.n_features) * self.n_features

    @property
    def checkpoint_bytes(self) -> float:
        """Weights and moments in float32, counters."""
        return 12 * self.n_parameters + 8 * self.n_features

    @property
    def published_bytes(self) -> float:
        """Weights in float32, biases and thresholds."""
        return 4 * self.n_parameters + 8 * self.n_features

    @property
    def run_bytes(self) -> float:
        """Activations in sorted runs, until they are merged."""
        return 12 * self.n_tokens * self.k

    @property
    def correlation_bytes(self) -> float:
        """Sums of products of every feature with every direction and neuron, held through the pass."""
        return 8 * self.n_features * (self.d_model + self.n_neurons)


def largest(device_bytes: float, d_model: int) -> float:
    """Features whose training state alone fills a GPU."""
    return device_bytes / (GPU_BYTES * 2 * d_model)


PAPER = Scale(4096, 34_000_000, 8e9, 192, 131_072, 35e9)  # the paper's largest; width, k and model are assumptions
DEMO = Scale(576, 16_384, 480_000, 32, 2048, 57e6, 128)
