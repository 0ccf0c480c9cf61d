"""Which comparisons are made, at which settings, and the bar that each should pass."""

from dataclasses import dataclass
from typing import Any

from bench.passes import PASS_BATCHES
from bench.setting import SHAPES, Shape, Spec

FP32, BF16 = "float32", "bfloat16"
# Rules of peers that our own trainer does not have (`bench.matched`).
UNIT_ROWS: dict[str, Any] = {"unit_rows": True}
FVU: dict[str, Any] = {"loss": "fvu", "clips": False}
CHECK, READ_BACK, FOUND = "weighted sum of the statistics", "sum of magnitudes read back", "sum of the strongest"
COSINES = "sum of the first block's cosines"
NO_TRAINING = (CHECK, READ_BACK, FOUND, COSINES)


@dataclass(frozen=True)
class Pair:
    """`slower` should take at least `bar` times as long as `faster`. `what`: in words."""

    what: str
    slower: str
    faster: str
    bar: float


@dataclass(frozen=True)
class Limit:
    """What one step of a contender may take at most, where no peer does the same."""

    what: str
    contender: str
    wall_s: float
    peak_gb: float


@dataclass(frozen=True)
class Suite:
    """Contenders at one shape, in one set of interleaved rounds."""

    name: str
    title: str
    specs: tuple[Spec, ...]
    pairs: tuple[Pair, ...]
    alike: tuple[Pair, ...] = ()
    """Who must have equal errors throughout `parity_steps`; `bar`: relative difference."""
    parity_steps: int = 0
    n_steps: int = 0
    """Steps a round; 0: as many as take half a second."""
    guard: str = "squared error"
    """What must be equal before anything is timed."""
    limits: tuple[Limit, ...] = ()

    def with_rooflines(self) -> tuple[Spec, ...]:
        """Its contenders, and the machine's own limits at this shape in the same rounds: products in both dtypes, a copy."""
        if self.parity_steps or self.guard in NO_TRAINING:  # so the encoder is no limit of theirs
            return self.specs
        shape = self.specs[0].shape
        limits = (Spec("encode only", shape, BF16), Spec("encode only", shape), Spec("copy", shape))
        labels = {spec.label for spec in self.specs}
        return self.specs + tuple(spec for spec in limits if spec.label not in labels)


def _like_for_like(peer: str, bar: float, best: float, default: str = FP32) -> tuple[Pair, ...]:
    return (
        Pair(f"{peer}, float32 on both sides", f"{peer} {FP32}", f"ours {FP32}", bar),
        Pair(f"{peer} as it comes, our best", f"{peer} {default}", f"ours {BF16}", best),
    )


def topk(shape: Shape, name: str, everything: bool) -> Suite:
    """B02, B03, B04. `everything`: also every peer as it comes and with bfloat16 products."""
    fused = {"fused": True}
    specs = [
        Spec("ours", shape, FP32), Spec("ours", shape, BF16), Spec("encode only", shape, BF16), Spec("SAELens", shape),
        Spec("dictionary_learning", shape), Spec("sparsify", shape, options=fused),
    ]  # fmt: skip
    pairs = [
        *_like_for_like("SAELens", 5, 8),
        *_like_for_like("dictionary_learning", 5, 8),
        Pair("sparsify, float32 on both sides, fused Adam in both", f"sparsify {FP32}, fused=True", f"ours {FP32}", 1.5),
        Pair("sparsify with fused Adam, our best", f"sparsify {FP32}, fused=True", f"ours {BF16}", 2.5),
    ]
    if everything:
        specs += [
            Spec("SAELens", shape, options={"rescale": True}), Spec("sparsify", shape), Spec("SAELens", shape, BF16),
            Spec("dictionary_learning", shape, BF16),
        ]  # fmt: skip
        pairs += [
            Pair("SAELens with its rescaling by decoder norms, our best", f"SAELens {FP32}, rescale=True", f"ours {BF16}", 8),
            Pair("sparsify with Adam as PyTorch comes, our best", f"sparsify {FP32}", f"ours {BF16}", 2.5),
            Pair("SAELens, bfloat16 products on both sides", f"SAELens {BF16}", f"ours {BF16}", 4.5),
            Pair("dictionary_learning, bfloat16 products on both sides", f"dictionary_learning {BF16}", f"ours {BF16}", 4.5),
        ]
    return Suite(name, f"TopK step, shape {shape.name}", tuple(specs), tuple(pairs))


def batch_topk(shape: Shape, name: str) -> Suite:
    """B05."""
    specs = (
        Spec("ours", shape, FP32, architecture="batch_topk"), Spec("ours", shape, BF16, architecture="batch_topk"),
        Spec("SAELens", shape, architecture="batch_topk"), Spec("dictionary_learning", shape, architecture="batch_topk"),
    )  # fmt: skip
    pairs = (*_like_for_like("SAELens", 5, 8), *_like_for_like("dictionary_learning", 5, 8))
    return Suite(name, f"BatchTopK step, shape {shape.name}", specs, pairs)


def relu_l1(shape: Shape, name: str, l0: int, bar: float) -> Suite:
    """B06: equal biases set so that a token has `l0` active features on average."""
    common = {"architecture": "relu_l1", "target_l0": l0, "learning_rate": 1e-6}
    specs = (
        Spec("ours", shape, FP32, **common), Spec("ours", shape, BF16, **common),
        Spec("ours", shape, FP32, **common, options={"dense_above_share": 0.0}), Spec("dictionary_learning", shape, **common),
    )  # fmt: skip
    pairs = (
        Pair(f"dictionary_learning at L0 {l0}, float32 on both sides", f"dictionary_learning {FP32}", f"ours {FP32}", bar),
        Pair(f"dictionary_learning at L0 {l0} as it comes, our best", f"dictionary_learning {FP32}", f"ours {BF16}", bar),
        Pair(f"our own dense step at L0 {l0}", f"ours {FP32}, dense_above_share=0.0", f"ours {FP32}", 0),
    )
    return Suite(name, f"ReLU-L1 step at L0 {l0}, shape {shape.name}", specs, pairs)


def other(shape: Shape, name: str, architecture: str, bar: float, target_l0: int | None = None) -> Suite:
    """B07, B08."""
    common = {"architecture": architecture, "target_l0": target_l0}
    specs = (
        Spec("ours", shape, FP32, **common),
        Spec("ours", shape, BF16, **common),
        Spec("dictionary_learning", shape, **common),
    )
    return Suite(name, f"{architecture} step, shape {shape.name}", specs, _like_for_like("dictionary_learning", bar, bar))


def floor(shape: Shape, name: str) -> Suite:
    """B01, B09: our step beside the encoder's product alone."""
    specs = (
        Spec("ours", shape, BF16), Spec("ours", shape, BF16, architecture="batch_topk"), Spec("encode only", shape, BF16),
        Spec("encode only", shape, FP32), Spec("copy", shape),
    )  # fmt: skip
    pairs = (Pair("share of the step that the bfloat16 encoder alone takes", f"encode only {BF16}", f"ours {BF16}", 0.45),)
    return Suite(name, f"Our TopK step against the encode-only floor, shape {shape.name}", specs[:1] + specs[2:], pairs)


def crossover(shape: Shape, l0: int, prefix: str = "") -> Suite:
    """Sparse against dense at a density, to place `step.DENSE_ABOVE_SHARE` (or `GPU_DENSE_ABOVE_SHARE`)."""
    common = {"architecture": "relu_l1", "target_l0": l0, "learning_rate": 1e-6, "dtype": BF16}
    specs = tuple(Spec("ours", shape, **common, options={"dense_above_share": share}) for share in (1.0, 0.0))
    pairs = (
        Pair(
            f"dense over sparse at {l0 / shape.n_features:.1%} active", f"ours {BF16}, dense_above_share=0.0",
            f"ours {BF16}, dense_above_share=1.0", 0,
        ),
    )  # fmt: skip
    return Suite(f"{prefix}crossover-{l0}", f"Sparse against dense, L0 {l0} of {shape.n_features}", specs, pairs)


def shuffle(window: int, name: str) -> Suite:
    """B12."""
    shape = SHAPES["S4"]
    specs = tuple(
        Spec(contender, shape, options={"window": window})
        for contender in ("our ring", "SAELens mixing_buffer", "dictionary_learning buffer")
    )
    ours, mixing, buffer = (spec.label for spec in specs)
    pairs = (
        Pair("SAELens mixing_buffer", mixing, ours, 30 if window > 100_000 else 0),
        Pair("dictionary_learning ActivationBuffer", buffer, ours, 0),
    )
    # A buffer is refilled when half of it was served: whole cycles, or the price would be missed.
    return Suite(name, f"Shuffle at a window of {window:,} rows", specs, pairs, n_steps=max(64, window // shape.batch))


def harvest() -> Suite:
    """B11."""
    shape = Shape("GPT-2 small", 768, 3072, 1, 1024)  # F: the width of the MLP, for the roofline
    specs = tuple(
        Spec(contender, shape, dtype)
        for contender, dtype in (
            ("our truncated forward", FP32), ("our truncated forward", BF16), ("TransformerLens", FP32),
            ("full forward with logits", FP32),
        )
    )  # fmt: skip
    pairs = (
        Pair("TransformerLens stop_at_layer as it comes, our best", specs[2].label, specs[1].label, 2),
        Pair("full forward as it comes, our best", specs[3].label, specs[1].label, 3.5),
        Pair("TransformerLens stop_at_layer, float32 on both sides", specs[2].label, specs[0].label, 0),
    )
    return Suite("B11-harvest", "Harvest: GPT-2 small's shape to block 8 of 12, 4 x 256 tokens", specs, pairs)


def six(largest: int, bar: float) -> Suite:
    """B10."""
    shape = Shape("six", 576, largest, 32, 1024)
    together, apart = (Spec("six SAEs", shape, BF16, options={"largest": largest, "shared": way}) for way in (True, False))
    pairs = (Pair("six runs of their own", apart.label, together.label, bar),)
    return Suite(f"B10-six-{largest}", f"Six SAEs up to {largest:,} features from one stream", (together, apart), pairs)


def statistics() -> Suite:
    """B14."""
    shape = SHAPES["statistics"]
    specs = tuple(
        Spec(contender, shape, options=options, environment="dashboards")
        for options in (None, {"files": True})
        for contender in ("our statistics", "delphi cache")
    )
    ours, delphi, ours_files, delphi_files = (spec.label for spec in specs)
    pairs = (
        Pair("delphi's latent cache, in memory", delphi, ours, 40),
        Pair("delphi's latent cache, written in splits; ours sorted", delphi_files, ours_files, 0),
    )
    return Suite("B14-statistics", "Feature statistics of the same latents", specs, pairs, n_steps=PASS_BATCHES, guard=CHECK)


def dashboards() -> Suite:
    """B15."""
    shape = SHAPES["dashboards"]
    ours, peer = (Spec(contender, shape, environment="dashboards") for contender in ("our pages", "sae-dashboard"))
    pairs = (Pair("sae-dashboard's SaeVisRunner, float32 on both sides", peer.label, ours.label, 10),)
    title = "Data of the pages of 1,024 features on 262,144 tokens"
    return Suite("B15-dashboards", title, (ours, peer), pairs, n_steps=8, guard=CHECK)


def store(way: str) -> Suite:
    """B13. `way`: write or read."""
    shape, options = SHAPES["S4"], {"way": way}
    ours, raw, arrow, saved = (
        Spec(contender, shape, options=options) for contender in ("our shards", "raw file", "Arrow data set", "torch.save")
    )
    pairs = (
        Pair("a plain file of the same values (share of its speed)", raw.label, ours.label, 0.8),
        Pair("the Arrow data set of SAELens's cache", arrow.label, ours.label, 3),
        Pair("torch.save and torch.load", saved.label, ours.label, 0),
    )
    title = f"Activations on disk, {way}"
    return Suite(f"B13-store-{way}", title, (ours, raw, arrow, saved), pairs, n_steps=64, guard=READ_BACK)


def query() -> Suite:
    """B16."""
    shape = SHAPES["statistics"]
    ours, delphi = (Spec(contender, shape, environment="dashboards") for contender in ("our sorted file", "delphi splits"))
    pairs = (Pair("delphi's splits, loaded and sorted", delphi.label, ours.label, 3),)
    title = "The 20 strongest activations of all 16,384 features"
    return Suite("B16-query", title, (ours, delphi), pairs, n_steps=PASS_BATCHES, guard=FOUND)


def neighbours() -> Suite:
    """B17."""
    spec = Spec("our neighbour search", SHAPES["neighbours"], threads=2)
    limits = (Limit("the 15 nearest of every feature", spec.label, 60, 2),)
    return Suite("B17-neighbours", "Exact neighbours of 65,536 features", (spec,), (), n_steps=1, guard=COSINES, limits=limits)


def parity(name: str, architecture: str, peers: dict[str, dict[str, Any]]) -> Suite:
    """Equal weights in, equal errors out, over 200 steps on planted data: our step under each peer's rules (`bench.matched`) must
    stay within 1 % of that peer's; as it comes, it is shown beside them."""
    shape = SHAPES["T"]
    common = {"architecture": architecture, "learning_rate": 1e-3}
    specs, alike = [Spec("ours", shape, FP32, **common)], []
    for peer, rules in peers.items():
        # SAELens as it comes ranks by f ‖W_dec‖, as ours does.
        theirs = Spec(peer, shape, FP32, **common, options={"rescale": True} if peer == "SAELens" else None)
        ours = Spec("ours under a peer's rules", shape, FP32, **common, options=rules) if rules else specs[0]
        specs += [theirs] if ours in specs else [theirs, ours]
        alike.append(Pair(peer, theirs.label, ours.label, 0.01))
    return Suite(name, f"Equal training: {architecture}, shape T", tuple(specs), (), tuple(alike), parity_steps=200)


def all_suites() -> list[Suite]:
    """In the order in which they run."""
    S, M = SHAPES["S"], SHAPES["M"]
    return [
        topk(S, "B02-04-topk-S", everything=True),
        topk(M, "B02-04-topk-M", everything=False),
        batch_topk(S, "B05-batch-topk-S"),
        relu_l1(S, "B06-relu-l1-40", 40, 4.5),
        relu_l1(S, "B06-relu-l1-160", 160, 3.5),
        relu_l1(S, "B06-relu-l1-640", 640, 1.5),
        other(S, "B07-jumprelu-S", "jumprelu", 5, target_l0=40),
        other(S, "B08-matryoshka-S", "matryoshka", 5),
        floor(S, "B09-floor-S"),
        floor(SHAPES["S4"], "B09-floor-S4"),
        *(crossover(S, l0) for l0 in (640, 1024)),
        six(4096, 4),
        six(8192, 3),
        harvest(),
        shuffle(262_144, "B12-shuffle-262k"),
        store("write"),
        store("read"),
        statistics(),
        query(),
        dashboards(),
        neighbours(),
        parity("parity-topk", "topk", {"SAELens": {}, "dictionary_learning": UNIT_ROWS, "sparsify": UNIT_ROWS | FVU}),
        parity("parity-batch-topk", "batch_topk", {"SAELens": {}, "dictionary_learning": UNIT_ROWS}),
        parity("parity-relu-l1", "relu_l1", {"dictionary_learning": UNIT_ROWS | {"clips": False}}),
    ]
