"""Comparisons of training steps: each architecture against the peers, its floor, sparse against dense, equal training."""

from typing import Any

from bench.setting import SHAPES, Shape, Spec
from bench.suite import BF16, FP32, Pair, Suite

# Rules of peers that our own trainer does not have (`bench.matched`).
UNIT_ROWS: dict[str, Any] = {"unit_rows": True}
FVU: dict[str, Any] = {"loss": "fvu", "clips": False}
SAELENS_DEFAULTS: dict[str, Any] = {"rescale": True, "aux": 1.0}
DEAD_SHARE = 0.05


# A peer as its user gets it. Ours comes with the C library's setting that keeps freed memory (`sae_pipeline/allocator.py`); rows
# without a bar give the peer that, too.
INSTALLED: dict[str, Any] = {"allocator": "default"}


def _like_for_like(peer: str, bar: float, best: float, **options: Any) -> tuple[Pair, ...]:
    """Float32 on both sides, and the peer's default precision, which is float32, against our best."""
    installed, kept = (Spec(peer, SHAPES["S"], options=own).label for own in (options | INSTALLED, options or None))
    return (
        Pair(f"{peer} as installed, float32 on both sides", installed, f"ours {FP32}", bar),
        Pair(f"{peer} as installed, our best", installed, f"ours {BF16}", best),
        Pair(f"{peer} with our allocator's setting, float32 on both sides", kept, f"ours {FP32}", 0),
        Pair(f"{peer} with our allocator's setting, our best", kept, f"ours {BF16}", 0),
    )


def _both(peer: str, shape: Shape, **common: Any) -> tuple[Spec, Spec]:
    options = common.pop("options", None) or {}
    return Spec(peer, shape, **common, options=options | INSTALLED), Spec(peer, shape, **common, options=options or None)


def topk(shape: Shape, name: str, everything: bool) -> Suite:
    """B02, B03, B04; sparsify with fused Adam, as ours. `everything`: also peers' other defaults and bfloat16 products."""
    specs = [
        Spec("ours", shape, FP32), Spec("ours", shape, BF16), Spec("encode only", shape, BF16), *_both("SAELens", shape),
        *_both("dictionary_learning", shape), *_both("sparsify", shape, options={"fused": True}),
    ]  # fmt: skip
    pairs = [
        *_like_for_like("SAELens", 5, 8),
        *_like_for_like("dictionary_learning", 5, 8),
        *_like_for_like("sparsify", 1.5, 2.5, fused=True),
    ]
    if everything:
        more = (
            (Spec("SAELens", shape, options=SAELENS_DEFAULTS | INSTALLED), "rescaling, AuxK on, nothing dead, our best", 8),
            (Spec("sparsify", shape, options=INSTALLED), "Adam as PyTorch comes, our best", 2.5),
            (Spec("SAELens", shape, BF16, options=INSTALLED), "bfloat16 products on both sides", 4.5),
            (Spec("dictionary_learning", shape, BF16, options=INSTALLED), "bfloat16 products on both sides", 4.5),
        )
        specs += [spec for spec, _, _ in more]
        pairs += [Pair(f"{spec.contender} as installed, {how}", spec.label, f"ours {BF16}", bar) for spec, how, bar in more]
    return Suite(name, f"TopK step, shape {shape.name}", tuple(specs), tuple(pairs))


def dead(shape: Shape, name: str) -> Suite:
    """B02, B03, B04 with AuxK at work on both sides: so large a share of the features counts as dead in every step."""
    common: dict[str, Any] = {"dead": DEAD_SHARE}
    specs = (
        Spec("ours", shape, FP32, options=common), Spec("ours", shape, BF16, options=common),
        Spec("SAELens", shape, options=common | SAELENS_DEFAULTS), Spec("dictionary_learning", shape, options=common),
        Spec("sparsify", shape, options=common | {"fused": True}),
    )  # fmt: skip
    pairs = tuple(Pair(f"{spec.contender}, float32 on both sides", spec.label, specs[0].label, 0) for spec in specs[2:])
    best = tuple(
        Pair(f"{spec.contender} in its default precision, our best", spec.label, specs[1].label, 0) for spec in specs[2:]
    )
    title = f"TopK step with AuxK, {DEAD_SHARE:.0%} of the features dead, shape {shape.name}"
    return Suite(name, title, specs, pairs + best)


def batch_topk(shape: Shape, name: str) -> Suite:
    """B05."""
    specs = (
        Spec("ours", shape, FP32, architecture="batch_topk"), Spec("ours", shape, BF16, architecture="batch_topk"),
        *_both("SAELens", shape, architecture="batch_topk"), *_both("dictionary_learning", shape, architecture="batch_topk"),
    )  # fmt: skip
    pairs = (*_like_for_like("SAELens", 5, 8), *_like_for_like("dictionary_learning", 5, 8))
    return Suite(name, f"BatchTopK step, shape {shape.name}", specs, pairs)


def relu_l1(shape: Shape, name: str, l0: int, bar: float) -> Suite:
    """B06: equal biases set so that a token has `l0` active features on average."""
    common = {"architecture": "relu_l1", "target_l0": l0, "learning_rate": 1e-6}
    specs = (
        Spec("ours", shape, FP32, **common), Spec("ours", shape, BF16, **common),
        Spec("ours", shape, FP32, **common, options={"form": "dense"}), *_both("dictionary_learning", shape, **common),
    )  # fmt: skip
    dense = Pair(f"our own dense step at L0 {l0}", f"ours {FP32}, form=dense", f"ours {FP32}", 0)
    pairs = (*_like_for_like("dictionary_learning", bar, bar), dense)
    return Suite(name, f"ReLU-L1 step at L0 {l0}, shape {shape.name}", specs, pairs)


def other(shape: Shape, name: str, architecture: str, bar: float, target_l0: int | None = None) -> Suite:
    """B07, B08."""
    common = {"architecture": architecture, "target_l0": target_l0}
    specs = (
        Spec("ours", shape, FP32, **common),
        Spec("ours", shape, BF16, **common),
        *_both("dictionary_learning", shape, **common),
    )
    return Suite(name, f"{architecture} step, shape {shape.name}", specs, _like_for_like("dictionary_learning", bar, bar))


def floor(shape: Shape, name: str) -> Suite:
    """B01, B09: our step beside the encoder's product alone."""
    specs = (
        Spec("ours", shape, BF16), Spec("encode only", shape, BF16), Spec("encode only", shape, FP32), Spec("copy", shape),
    )  # fmt: skip
    pairs = (Pair("share of the step that the bfloat16 encoder alone takes", f"encode only {BF16}", f"ours {BF16}", 0.45),)
    return Suite(name, f"Our TopK step against the encode-only floor, shape {shape.name}", specs, pairs)


def crossover(shape: Shape, l0: int, prefix: str = "") -> Suite:
    """Sparse against dense at a density, to place `step.DENSE_ABOVE_SHARE` (or `GPU_DENSE_ABOVE_SHARE`)."""
    common = {"architecture": "relu_l1", "target_l0": l0, "learning_rate": 1e-6, "dtype": BF16}
    specs = tuple(Spec("ours", shape, **common, options={"form": form}) for form in ("sparse", "dense"))
    pairs = (
        Pair(
            f"dense over sparse at {l0 / shape.n_features:.1%} active", f"ours {BF16}, form=dense",
            f"ours {BF16}, form=sparse", 0,
        ),
    )  # fmt: skip
    return Suite(f"{prefix}crossover-{l0}", f"Sparse against dense, L0 {l0} of {shape.n_features}", specs, pairs)


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
