"""Children per parent by size, and how near a second seed comes to every feature."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sae_pipeline.plots.figure import THEMES, legend, new_figure, set_title, size_colors, to_png

if TYPE_CHECKING:
    from sae_pipeline.survey.families.links import Links

FIGURE = "feature_families"
MOST = 12  # children; families with more share the last bar


def draw_families(links: Mapping[tuple[int, int], "Links"], sizes: Sequence[int], recurrence: pl.DataFrame) -> dict[str, bytes]:
    """`feature_families.light.png` and `.dark.png`."""
    drawn = {}
    for theme in THEMES:
        figure, axes = new_figure(theme, 1, 2, width=9, height=3.0)
        left, right = axes[0]
        colors = size_colors(sizes, theme)
        for at, child in enumerate(sizes[1:]):
            children = links[sizes[0], child].children_of(sizes[0]).clip(max=MOST)
            count = np.bincount(children, minlength=MOST + 1) / sizes[0]
            width = 0.8 / max(1, len(sizes) - 1)
            left.bar(np.arange(MOST + 1) + at * width, count, width=width, color=colors[child], label=f"{child:,}")
        left.set_xlabel(f"children per feature of {sizes[0]:,} ({MOST}: as many or more)")
        set_title(left, "share of features by number of children", theme)
        if len(sizes) > 1:
            legend(left, theme, loc="upper right", title="in the SAE of")
        bins = np.linspace(0, 1, 41).tolist()
        for (size,), part in recurrence.group_by("size", maintain_order=True):
            right.hist(
                part["second_seed_cosine"].to_numpy(), bins=bins, color=colors[int(str(size))], alpha=0.6, density=True,
                label=f"second seed, {size:,}",
            )  # fmt: skip
        right.hist(
            recurrence["chance_cosine"].to_numpy(), bins=bins, color=theme.controls[0], alpha=0.6, density=True, label="chance"
        )
        right.set_xlabel("cosine to the nearest feature")
        set_title(right, "density of features by how near a second seed comes", theme)
        legend(right, theme, loc="upper left")
        drawn[f"{FIGURE}.{theme.name}.png"] = to_png(figure)
    return drawn
