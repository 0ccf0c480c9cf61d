"""What `python -m bench --device cuda` compares: the large shapes, bfloat16 products on both sides, and the bars for a GPU.

Peers go one to a suite: the processes of a suite hold their memory at the same time.
"""

from bench.setting import SHAPES, Shape, Spec
from bench.step_suites import UNIT_ROWS, crossover, parity
from bench.suite import BF16, FP32, READ_AT_HOOK, Pair, Suite

GPT2_BATCH = 8192
CROSSOVERS = (64, 111, 222, 444)  # of shape L's 16,384 features; 111 is the share at which the step switches


def topk(shape: Shape, floor: float) -> list[Suite]:
    """B02, B03, B04 and B09 on a GPU. `floor`: share of our step that the encoder's product alone should take."""
    ours, encode = Spec("ours", shape, BF16), Spec("encode only", shape, BF16)
    peers = {
        "saelens": (Spec("SAELens", shape, BF16), "SAELens, its autocast", 3),
        "dictionary-learning": (Spec("dictionary_learning", shape, BF16), "dictionary_learning, its autocast", 3),
        "sparsify": (Spec("sparsify", shape, BF16, options={"fused": True}), "sparsify, its Triton, fused Adam", 2.4),
        "sparsify-default": (Spec("sparsify", shape, BF16), "sparsify, its Triton, Adam as PyTorch comes", 2.4),
    }
    own = Suite(
        f"gpu-B09-floor-{shape.name}", f"On a GPU: our TopK step against the encode-only floor, shape {shape.name}",
        (ours, Spec("ours", shape, FP32), encode, Spec("encode only", shape, FP32), Spec("copy", shape)),
        (Pair("share of the step that the bfloat16 encoder alone takes", encode.label, ours.label, floor),),
    )  # fmt: skip
    suites = [own]
    for name, (peer, what, bar) in peers.items():
        title = f"On a GPU: TopK step, shape {shape.name}, against {what}"
        suites.append(Suite(f"gpu-topk-{shape.name}-{name}", title, (ours, peer), (Pair(what, peer.label, ours.label, bar),)))
    return suites


def other(shape: Shape, architecture: str, peer: str, bar: float, target_l0: int | None = None) -> Suite:
    """B05 to B08 on a GPU."""
    # The number of active features must stay where it was set.
    rate = 1e-6 if architecture == "relu_l1" else 1e-4
    ours, theirs = (
        Spec(one, shape, BF16, architecture=architecture, target_l0=target_l0, learning_rate=rate) for one in ("ours", peer)
    )
    at = f" at L0 {target_l0}" if target_l0 else ""
    return Suite(
        f"gpu-{architecture}-{shape.name}-{peer}{f'-{target_l0}' if target_l0 else ''}",
        f"On a GPU: {architecture} step{at}, shape {shape.name}",
        (ours, theirs), (Pair(f"{peer}, its autocast", theirs.label, ours.label, bar),),
    )  # fmt: skip


def harvest() -> Suite:
    """B11 on a GPU."""
    shape = Shape("GPT-2 small", 768, 1, 1, GPT2_BATCH)
    ours, lens, full = (
        Spec(one, shape, BF16) for one in ("our truncated forward", "TransformerLens", "full forward with logits")
    )
    pairs = (
        Pair("TransformerLens stop_at_layer, bfloat16 on both sides", lens.label, ours.label, 1.5),
        Pair("full forward, bfloat16 on both sides", full.label, ours.label, 12 / 9),
    )
    title = f"On a GPU: harvest, GPT-2 small's shape to block 8 of 12, {GPT2_BATCH // 256} x 256 tokens"
    return Suite("gpu-B11-harvest", title, (ours, lens, full), pairs, guard=READ_AT_HOOK)


def gpu_suites() -> list[Suite]:
    """In the order in which they run."""
    M4, L, XL = Shape("M4", 768, 24_576, 32, 4096), SHAPES["L"], SHAPES["XL"]
    return [
        *topk(XL, 0.40),
        *topk(L, 0.30),
        *topk(M4, 0.30),
        other(L, "batch_topk", "SAELens", 4),
        other(L, "batch_topk", "dictionary_learning", 4),
        *(other(L, "relu_l1", "dictionary_learning", bar, l0) for l0, bar in ((40, 3), (160, 2), (640, 1.2))),
        other(L, "jumprelu", "dictionary_learning", 3, 40),
        other(L, "matryoshka", "dictionary_learning", 3),
        *(crossover(L, l0, "gpu-") for l0 in CROSSOVERS),
        harvest(),
        # sparsify multiplies in bfloat16 on a GPU whatever it is asked: its error starts elsewhere.
        parity("gpu-parity-topk", "topk", {"SAELens": {}, "dictionary_learning": UNIT_ROWS}),
        parity("gpu-parity-batch-topk", "batch_topk", {"SAELens": {}, "dictionary_learning": UNIT_ROWS}),
    ]
