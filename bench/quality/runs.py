"""Which SAEs are trained: contenders, architectures, sparsities, seeds, and the budget that all of them share."""

from dataclasses import asdict, dataclass
from typing import Any

OURS, SAELENS, DICTIONARY_LEARNING = "ours", "SAELens", "dictionary_learning"
N_FEATURES, BATCH, N_STEPS = 1024, 512, 256
LEARNING_RATE, DECAY_SHARE, WARMUP_SHARE = 1e-3, 0.2, 0.05
DEAD_AFTER_TOKENS = 100_000  # silent tokens after which a feature counts as dead: ours, given to every peer (a test compares)
REVIVING = ("topk", "batch_topk", "matryoshka", "jumprelu")  # of which a peer's loss asks which features are dead
SEEDS = (1, 2, 3)
N_HELD_OUT, N_SPLICE_BLOCKS = 16_384, 16

# Ours at three sparsities, from which `matching` searches for those with the L0 of each peer's SAEs. Coefficients mean other
# things in other libraries, so what counts is the L0 that comes out. jumprelu: tanh penalty that rises over all steps, as it was
# published; jumprelu_early: over as many as every other penalty here; jumprelu_step: a penalty on the number of active features
# itself (dictionary_learning has one form, a squared distance of that number from a target; ours are all held against it).
K = (16, 32, 64)
SPARSITIES: dict[str, dict[str, tuple[float, ...]]] = {
    "topk": {OURS: K, SAELENS: (32,), DICTIONARY_LEARNING: (32,)},
    "batch_topk": {OURS: K, SAELENS: (32,), DICTIONARY_LEARNING: (32,)},
    "matryoshka": {OURS: K, SAELENS: (32,), DICTIONARY_LEARNING: (32,)},
    "relu_l1": {OURS: (2.5, 5, 10), SAELENS: (5,), DICTIONARY_LEARNING: (5,)},
    "gated": {OURS: (4, 7, 11), SAELENS: (10,), DICTIONARY_LEARNING: (10,)},
    "jumprelu": {OURS: (0.25, 0.5, 1), SAELENS: (5,), DICTIONARY_LEARNING: (24,)},
    "jumprelu_early": {OURS: (0.25, 0.5, 1), SAELENS: (1.5,), DICTIONARY_LEARNING: (24,)},
    "jumprelu_step": {OURS: (2, 4, 8), SAELENS: (2,), DICTIONARY_LEARNING: (24,)},
}
# Held against ours of the other penalty form: no comparison of like with like.
OTHER_FORM = (("jumprelu", DICTIONARY_LEARNING), ("jumprelu_early", DICTIONARY_LEARNING))
BY_K = ("topk", "batch_topk", "matryoshka")


@dataclass(frozen=True)
class Run:
    """One SAE. `sparsity`: k, or the coefficient of the penalty (dictionary_learning's jumprelu: its target L0)."""

    contender: str
    architecture: str
    sparsity: float
    seed: int

    @property
    def key(self) -> str:
        """Its folder. What was trained while peers had longer windows of their own is no result of this run."""
        revives = self.contender != OURS and self.architecture in REVIVING
        window = f"-dead{DEAD_AFTER_TOKENS}" if revives else ""
        return f"{self.contender}-{self.architecture}-{self.sparsity:g}-{self.seed}{window}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `Run(**...)` is the inverse."""
        return asdict(self)


def all_runs() -> list[Run]:
    """Seed by seed, so that what is there after any time can be compared."""
    return [
        Run(contender, architecture, float(sparsity), seed)
        for seed in SEEDS
        for architecture, by_contender in SPARSITIES.items()
        for contender, sparsities in by_contender.items()
        for sparsity in sparsities
    ]


def settings() -> dict[str, Any]:
    """The budget, for the results."""
    return {
        "n_features": N_FEATURES, "batch": BATCH, "n_steps": N_STEPS, "n_tokens": BATCH * N_STEPS, "learning_rate": LEARNING_RATE,
        "decay_share": DECAY_SHARE, "penalty_warmup_share": WARMUP_SHARE, "seeds": list(SEEDS), "n_held_out": N_HELD_OUT,
        "dead_after_tokens": DEAD_AFTER_TOKENS,
    }  # fmt: skip
