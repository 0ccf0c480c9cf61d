"""Comparisons of what lies around a step: harvest, shuffle, several SAEs at once, store, statistics, queries, pages."""

from bench.passes import PASS_BATCHES
from bench.setting import SHAPES, Shape, Spec
from bench.step_suites import INSTALLED
from bench.suite import BF16, CHECK, COSINES, FOUND, FP32, GIVEN, READ_AT_HOOK, READ_BACK, Limit, Pair, Suite


def shuffle(shape: Shape, window: int, name: str) -> Suite:
    """B12."""
    given = {"window": window}
    specs = (
        Spec("our ring", shape, options=given), Spec("SAELens mixing_buffer", shape, options=given | INSTALLED),
        Spec("dictionary_learning buffer", shape, options=given | INSTALLED), Spec("SAELens mixing_buffer", shape, options=given),
    )  # fmt: skip
    ours, mixing, buffer, kept = (spec.label for spec in specs)
    pairs = (
        Pair("SAELens mixing_buffer", mixing, ours, 30 if window > 100_000 else 0),
        Pair("dictionary_learning ActivationBuffer", buffer, ours, 0),
        Pair("SAELens mixing_buffer with our allocator's setting", kept, ours, 0),
    )
    # A buffer is refilled when half of it was served: whole cycles, or the price would be missed.
    title = f"Shuffle at a window of {window:,} rows of {shape.d_model}"
    return Suite(name, title, specs, pairs, n_steps=max(64, window // 2 // shape.batch), guard=GIVEN)


def harvest() -> Suite:
    """B11."""
    shape = Shape("GPT-2 small", 768, 3072, 1, 1024)  # F: the width of the MLP, for the roofline
    specs = tuple(
        Spec(contender, shape, dtype, options=None if contender.startswith("our") else INSTALLED)
        for contender in ("our truncated forward", "TransformerLens", "full forward with logits")
        for dtype in (FP32, BF16)
    )
    ours, ours_low, lens, lens_low, full, full_low = (spec.label for spec in specs)
    pairs = (
        Pair("TransformerLens stop_at_layer in its default precision, our best", lens, ours_low, 2),
        Pair("full forward in its default precision, our best", full, ours_low, 3.5),
        Pair("TransformerLens stop_at_layer, float32 on both sides", lens, ours, 0),
        Pair("full forward, float32 on both sides", full, ours, 0),
        Pair("TransformerLens stop_at_layer, bfloat16 on both sides", lens_low, ours_low, 0),
        Pair("full forward, bfloat16 on both sides", full_low, ours_low, 0),
    )
    title = "Harvest: GPT-2 small's shape to block 8 of 12, 4 x 256 tokens"
    return Suite("B11-harvest", title, specs, pairs, guard=READ_AT_HOOK)


def six(largest: int, bar: float) -> Suite:
    """B10."""
    shape = Shape("six", 576, largest, 32, 1024)
    together, apart = (Spec("six SAEs", shape, BF16, options={"largest": largest, "shared": way}) for way in (True, False))
    lens = Spec("six SAEs", shape, FP32, options={"largest": largest, "shared": True, "trainer": "SAELens"})
    pairs = (
        Pair("six runs of their own", apart.label, together.label, bar),
        Pair("SAELens's six trainers on one stream, in their default precision, our best", lens.label, together.label, 8),
    )
    return Suite(f"B10-six-{largest}", f"Six SAEs up to {largest:,} features from one stream", (together, apart, lens), pairs)


def statistics() -> Suite:
    """B14."""
    shape = SHAPES["statistics"]
    specs = tuple(
        Spec(contender, shape, options=own | also or None, environment="dashboards")
        for also in ({}, {"files": True})
        for contender, own in (("our statistics", {}), ("delphi cache", INSTALLED))
    )
    ours, delphi, ours_files, delphi_files = (spec.label for spec in specs)
    encode = Spec("encode only", shape, BF16, environment="dashboards")
    pairs = (
        Pair("delphi's latent cache, in memory", delphi, ours, 40),
        Pair("delphi's latent cache, written in splits; ours sorted", delphi_files, ours_files, 0),
        Pair("the encoder's product alone, bfloat16: ours takes at most a tenth of it", encode.label, ours, 10),
    )
    title = "Feature statistics of the same latents"
    return Suite("B14-statistics", title, (*specs, encode), pairs, n_steps=PASS_BATCHES, guard=CHECK)


def dashboards() -> Suite:
    """B15."""
    shape = SHAPES["dashboards"]
    ours = Spec("our pages", shape, environment="dashboards")
    peer = Spec("sae-dashboard", shape, options=INSTALLED, environment="dashboards")
    pairs = (Pair("sae-dashboard's SaeVisRunner, float32 on both sides", peer.label, ours.label, 10),)
    title = "Data of the pages of 1,024 features on 262,144 tokens"
    return Suite("B15-dashboards", title, (ours, peer), pairs, n_steps=8, guard=CHECK)


def store(way: str) -> Suite:
    """B13. `way`: write or read."""
    shape, options = SHAPES["S4"], {"way": way}
    ours, raw, arrow, saved = (
        Spec(contender, shape, options=options | own)
        for contender, own in (("our shards", {}), ("raw file", {}), ("Arrow data set", INSTALLED), ("torch.save", INSTALLED))
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
    ours = Spec("our sorted file", shape, environment="dashboards")
    delphi = Spec("delphi splits", shape, options=INSTALLED, environment="dashboards")
    pairs = (Pair("delphi's splits, loaded and sorted", delphi.label, ours.label, 3),)
    title = "The 20 strongest activations of all 16,384 features"
    return Suite("B16-query", title, (ours, delphi), pairs, n_steps=PASS_BATCHES, guard=FOUND)


def neighbours() -> Suite:
    """B17."""
    spec = Spec("our neighbour search", SHAPES["neighbours"], threads=2)
    limits = (Limit("the 15 nearest of every feature", spec.label, 60, 2),)
    return Suite("B17-neighbours", "Exact neighbours of 65,536 features", (spec,), (), n_steps=1, guard=COSINES, limits=limits)
