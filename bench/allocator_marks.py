"""Under which setting of the C library's allocator each peer was measured: marks on rows, and the paragraph that says why."""

from typing import Any

from bench.step_suites import INSTALLED

LIMITS = ("encode only", "copy")  # the machine's own
OURS = ("our", "six SAEs", "raw file", *LIMITS)  # how labels that are not a peer's begin
DEFAULT = ", ".join(f"{key}={value}" for key, value in INSTALLED.items())
WITHOUT = "peers without the allocator setting"
SAYS_SO = ("as installed", "our allocator's setting")  # names that need no mark
TEXT = """**Allocator.** Ours always keeps the memory that it frees, because our pipeline sets that for itself
(`sae_pipeline/allocator.py`). "As installed" (`{default}`): the peer in a process as its user starts it. "With our
allocator's setting": the peer is given it. As installed alone: {installed}. Both ways: {both}. With the setting alone: {kept}.
Where there are both, bars are held against the peer as installed.

Why as installed: the definitions of the benchmarks, fixed before any of these suites was run, list every setting of every peer,
and no allocator setting is among them; as installed is what they define. All the same, the choice between the two was made after
a run in which every peer had the setting and missed bars were seen. What such peers reach stands in the rows without a bar, and
there several float32 ratios and the shuffle lie below the bar of the row above. Why feature statistics have no second way: with
the setting delphi's latent cache takes 11 GB (commit 5163b5d{delphi}), and two of them run in that suite;
harvest, store, query and pages followed it. What their ratios would be with the setting was not measured."""


def is_peer(label: str) -> bool:
    """Also SAELens's trainers in the suite of six SAEs, whose forward is ours."""
    return not label.startswith(OURS) or "trainer=" in label


def mark(record: dict[str, Any], pair: dict[str, Any]) -> str:
    """What a row says after its name, where the name itself does not say it."""
    label = pair["slower"]
    if record["device"] != "cpu" or not is_peer(label) or any(words in pair["what"] for words in SAYS_SO):
        return ""
    if DEFAULT in label:
        return " (peer as installed)"
    return " (peer with our allocator's setting)" if record["contenders"][label].get("keeps_freed_memory") else ""


def paragraph(records: list[dict[str, Any]]) -> str:
    """Which suites ran which way, and why."""
    ways: dict[frozenset[bool], list[str]] = {frozenset(way): [] for way in ([True], [False], [True, False])}
    for record in records:
        peers = [label for label in record["contenders"] if is_peer(label)]
        if record["device"] == "cpu" and peers and record["pairs"]:
            ways[frozenset(DEFAULT in label for label in peers)].append(f"`{record['name']}`")
    installed, kept, both = (", ".join(names) or "none" for names in ways.values())
    peaks = [
        one["peak_rss_bytes"]
        for record in records
        for label, one in record["contenders"].items()
        if label.startswith("delphi cache") and DEFAULT in label
    ]
    delphi = f"; as installed {max(peaks) / 1e9:.2f} GB" if peaks else ""
    text = " ".join(TEXT.replace("\n\n", "\0").split()).replace("\0", "\n\n")
    return text.format(default=DEFAULT, installed=installed, kept=kept, both=both, delphi=delphi)
