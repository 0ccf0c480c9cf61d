"""The SAEs of a study: trained here, or (`sae_pipeline.study_pretrained`) made elsewhere. A section of `sae_pipeline.study`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from sae_pipeline.sae.names import PUBLISHED_WARMUP, SPARSITY_FIELDS, Architecture
from sae_pipeline.study_inputs import Section, Sizes
from sae_pipeline.study_pretrained import PretrainedSae


class Sae(Section):
    """One SAE per size. Fields of the other architectures are ignored by none: setting one is refused."""

    source: Literal["trained"] = Field(default="trained", description="`pretrained` imports SAEs instead, see the section below")
    architecture: Architecture = Field(default="batch_topk", description="see docs/metrics.md for their losses")
    sizes: Sizes = Field(description="numbers of features, one SAE each, increasing")
    k: int | None = Field(default=None, gt=0, description="active features per token (topk, batch_topk, matryoshka); default 32")
    l1: float | None = Field(default=None, gt=0, description="lambda of relu_l1 and gated; default 5 (the paper's)")
    sparsity: float | None = Field(
        default=None,
        gt=0,
        description="lambda of jumprelu; default 0.5 (sparsity_loss tanh) or 2 (step), for a width of 600; grows with it",
    )
    sparsity_loss: Literal["tanh", "step"] | None = Field(
        default=None, description="of jumprelu; tanh: Anthropic's of January 2025 (the default), step: Gemma Scope's"
    )
    sparsity_warmup: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="of jumprelu: share of the steps over which lambda rises; default as published: 1 (tanh) or 0.05 (step). "
        "0.05 is better for tanh, too, where steps are few (docs/training.md)",
    )
    prefixes: list[float] | None = Field(
        default=None,
        description="of matryoshka: shares of the features that reconstruct on their own, increasing to 1; "
        "default 1/16, 1/8, 1/4, 1/2, 1",
    )
    epochs: float = Field(default=3, gt=0, description="passes over the unmasked training tokens")
    batch: int = Field(default=2048, gt=0, description="tokens per step")
    learning_rate: float | dict[int | Literal["other"], float] = Field(
        default=1.0e-3, description="peak, Adam; one number, or one per size (`other`: the sizes not named)"
    )
    ring: int = Field(
        default=262_144,
        gt=0,
        description="tokens mixed at a time when activations are streamed; stored ones are permuted whole",
    )
    checkpoint_every_steps: int = Field(default=100, gt=0, description="work that a crash can cost; does not change results")
    seed: int = Field(default=0, description="of every random choice of this section")

    @model_validator(mode="after")
    def _a_rate_for_every_size(self) -> "Sae":
        rates = self.learning_rate if isinstance(self.learning_rate, dict) else {"other": self.learning_rate}
        if min(rates.values(), default=0) <= 0:
            raise ValueError("learning_rate must be positive")
        if unknown := [size for size in rates if size != "other" and size not in self.sizes]:
            raise ValueError(f"learning_rate names size {unknown[0]}, but sizes are {self.sizes}")
        if "other" not in rates and (unnamed := [size for size in self.sizes if size not in rates]):
            raise ValueError(f"learning_rate has no entry for size {unnamed[0]}; add it or `other`")
        return self

    @model_validator(mode="after")
    def _own_fields_only(self) -> "Sae":
        own = SPARSITY_FIELDS[self.architecture]
        for field in sorted({name for names in SPARSITY_FIELDS.values() for name in names} - set(own)):
            if getattr(self, field) is not None:
                owners = " and ".join(name for name, fields in SPARSITY_FIELDS.items() if field in fields)
                raise ValueError(f"{field} belongs to {owners}; {self.architecture} sets sparsity by {own[0]}")
        if "k" in own and self.n_active > self.sizes[0]:
            raise ValueError(f"k = {self.n_active} is larger than the smallest size {self.sizes[0]}")
        if self.architecture == "matryoshka":
            shares = list(self.prefix_shares)
            if shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1:
                raise ValueError("prefixes must be positive, strictly increasing and end with 1")
            if len(shares) > self.sizes[0]:
                raise ValueError(f"{len(shares)} prefixes do not fit into the smallest size {self.sizes[0]}")
        return self

    def learning_rate_of(self, size: int) -> float:
        """Peak learning rate of this size."""
        if isinstance(self.learning_rate, dict):
            return self.learning_rate[size] if size in self.learning_rate else self.learning_rate["other"]
        return self.learning_rate

    @property
    def n_active(self) -> int:
        """k of the top-k architectures."""
        return self.k or 32

    @property
    def l1_coefficient(self) -> float:
        """lambda of `relu_l1` (paper, 'Scaling sparse autoencoders': 5) and `gated`."""
        return self.l1 or 5.0

    @property
    def jumprelu_coefficient(self) -> float:
        """lambda of `jumprelu`. It weighs against squared errors summed over the width: wide models take 10 and more."""
        return self.sparsity or (2.0 if self.sparsity_loss == "step" else 0.5)

    @property
    def jumprelu_warmup(self) -> float:
        """Share of the steps over which lambda of `jumprelu` rises."""
        return self.sparsity_warmup or PUBLISHED_WARMUP[self.sparsity_loss or "tanh"]

    @property
    def prefix_shares(self) -> tuple[float, ...]:
        """Shares of the features in each prefix of `matryoshka`."""
        return tuple(self.prefixes or (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0))

    @property
    def sparsity_settings(self) -> dict[str, Any]:
        """The fields of this architecture with their defaults filled in."""
        values: dict[str, Any] = {
            "k": self.n_active, "l1": self.l1_coefficient, "prefixes": list(self.prefix_shares),
            "sparsity": self.jumprelu_coefficient, "sparsity_loss": self.sparsity_loss or "tanh",
            "sparsity_warmup": self.jumprelu_warmup,
        }  # fmt: skip
        return {name: values[name] for name in SPARSITY_FIELDS[self.architecture]}


def _source_of(sae: Any) -> str:
    """Which of the two `sae` sections a mapping is. Without `source` it is one that trains."""
    return (sae.get("source") if isinstance(sae, dict) else getattr(sae, "source", None)) or "trained"


AnySae = Annotated[Annotated[Sae, Tag("trained")] | Annotated[PretrainedSae, Tag("pretrained")], Discriminator(_source_of)]
