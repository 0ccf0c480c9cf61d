"""The architectures by name. Everything that lists them reads it here; imports nothing heavy: reading a study stays quick."""

from typing import Literal, get_args

Architecture = Literal["relu_l1", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"]
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
# Which fields of the study set the sparsity of which architecture; setting any other is refused.
SPARSITY_FIELDS: dict[str, tuple[str, ...]] = {
    "relu_l1": ("l1",), "gated": ("l1",), "topk": ("k",), "batch_topk": ("k",), "matryoshka": ("k", "prefixes"),
    "jumprelu": ("sparsity", "sparsity_loss", "sparsity_warmup"),
}  # fmt: skip
# Of jumprelu: the share of the steps over which lambda rises, as each form was published (Gemma Scope's 10,000 of its steps).
PUBLISHED_WARMUP = {"tanh": 1.0, "step": 0.05}


def has_k(architecture: str) -> bool:
    """Whether the number of active features is fixed; otherwise a penalty sets it, and first steps are dense."""
    return "k" in SPARSITY_FIELDS.get(architecture, ())
