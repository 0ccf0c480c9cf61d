"""What an architecture is: which entries are active, what sparsity costs, and the gradients of its own loss.

Subclasses live one to a file. `gradients` here is that of the plain squared error with a linear penalty on feature activations;
`relu_l1`, `topk` and `batch_topk` need no more. See docs/architectures.md for how to add one.

Shapes: N tokens, F features, D width, `_E` entries (pairs, or all N x F: see `entries`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from sae_pipeline.sae import gpu
from sae_pipeline.sae.entries import Entries
from sae_pipeline.sae.kernels import Pairs, pairs_from
from sae_pipeline.sae.parameters import Parameters, Published
from sae_pipeline.sae.preactivations import PreActivations


@dataclass(frozen=True)
class Batch:
    """One batch and everything that a loss may look at. `penalty` is lambda of this step."""

    x_ND: Tensor
    x_low_ND: Tensor
    parameters: Parameters
    weights: Published
    penalty: float

    @property
    def n_tokens(self) -> int:
        """N."""
        return len(self.x_ND)

    def error(self, sum_ND: Tensor) -> Tensor:
        """x_hat - x, float32, from the sum of decoder rows."""
        return sum_ND + self.parameters.b_dec_D - self.x_ND

    def gradient_of(self, error_ND: Tensor) -> tuple[Tensor, Tensor]:
        """dL/dx_hat of the mean over tokens of ‖error‖²: (float32, in the dtype of the products)."""
        g_ND = error_ND * (2 / self.n_tokens)
        return g_ND, g_ND.to(self.x_low_ND.dtype)


@dataclass
class Gradients:
    """Gradients in published units, and the batch's statistics.

    `dz_F` sums over tokens what reaches the pre-activation through the encoder rows, `db_F` what reaches its bias (the same
    unless an architecture has other biases). `pull_F` is the gradient with respect to the logarithm of the decoder norm at fixed
    direction that does not come through the reconstruction: sum over tokens of d(penalty)/du x u.
    """

    error_ND: Tensor
    g_D: Tensor
    dV_FD: Tensor
    dW_FD: Tensor
    dz_F: Tensor
    count_F: Tensor
    penalty_loss: Tensor | float = 0.0
    """What the loss has beside the squared error, per token."""
    db_F: Tensor | None = None
    pull_F: Tensor | None = None
    own: dict[str, Tensor] = field(default_factory=dict)


class Architecture(ABC):
    """Base of all architectures, with the defaults of the top-k family."""

    name: str
    initial_decoder_norm = 1.0
    subtracts_decoder_bias = True
    """Whether the encoder sees x - b_dec."""
    betas = (0.9, 0.999)
    """Of Adam."""
    feature_rate = 1.0
    """Learning rate of the numbers per feature (biases, thresholds) over that of the weights."""
    revives_dead_features = True
    """Whether the auxiliary loss of `revive` is added for features that have been silent for long."""

    def own_parameters(self, n_features: int) -> dict[str, Tensor]:
        """Initial values of parameters beyond encoder and decoder, one number per feature each."""
        return {}

    def prepare(self, parameters: Parameters, x_ND: Tensor) -> None:  # noqa: B027 (most have nothing to prepare)
        """Set initial values that depend on data; `x_ND` is the first batch. Called once, before the first step."""

    def penalty(self, step: int, n_steps: int) -> float:
        """lambda at this step."""
        return 0.0

    def shift(self, parameters: Parameters) -> Tensor | None:
        """What `select` compares pre-activations with instead of 0, F, in training units (not times the decoder norm)."""
        return None

    def entries_per_token(self) -> int | None:
        """How many entries a token of a batch has at most on average, where the rule fixes it."""
        return None

    @abstractmethod
    def select(self, z: PreActivations, at_most: int) -> Pairs | None:
        """The entries that the loss depends on; None means all of them, when there would be more than `at_most`.

        On a GPU nobody waits to see how many there are: `at_most` places are given, none when there probably are more.
        """

    def gradients(self, entries: Entries, batch: Batch) -> Gradients:
        """Loss ‖x - x_hat‖² + lambda sum u, u = relu(z) on the entries: dL/du = g . V + lambda / N where active."""
        pull = batch.penalty / batch.n_tokens
        u_E, active_E = active_part(entries.z_E)
        error_ND = batch.error(entries.decode(u_E))
        g_ND, g_low_ND = batch.gradient_of(error_ND)
        du_E = entries.products(g_low_ND) + pull
        if active_E is not None:
            du_E = du_E.mul_(active_E)
        total_u_F = entries.total(u_E)
        dV_FD = entries.rows(u_E, g_low_ND)
        dW_FD = entries.rows(du_E, batch.x_low_ND)
        return Gradients(
            error_ND, g_ND.sum(0), dV_FD, dW_FD, entries.total(du_E), entries.count(active_E),
            penalty_loss=batch.penalty * (total_u_F.sum() / batch.n_tokens), pull_F=pull * total_u_F if pull else None,
        )  # fmt: skip

    def inference(self, parameters: Parameters) -> tuple[Parameters, Tensor | float]:
        """Plain parameters and a threshold in published units (one, or one per feature) for the form that is published:
        a feature is active when its pre-activation exceeds its threshold."""
        return parameters, 0.0

    def state(self) -> dict[str, float]:
        """What must survive a restart beside the parameters."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:  # noqa: B027 (the inverse of an empty state)
        """Inverse of `state`."""


def active_part(z_E: Tensor) -> tuple[Tensor, Tensor | None]:
    """(relu(z), mask). Pairs chosen by a top-k rule or as positive are all active: then no mask is needed and none is made."""
    if z_E.ndim == 1:
        return z_E, None
    return z_E.relu(), z_E > 0


def all_positive(z: PreActivations, at_most: int) -> Pairs | None:
    """Pairs of all positive pre-activations; None when they are more than `at_most`."""
    if z.on_gpu:
        return gpu.pairs_above(z, z.zero, at_most) if at_most else None
    found = z.positive(at_most)
    return None if found is None else pairs_from(*found, z.n_tokens, z.n_features)
