"""Attribution against the effect of ablation, beside activation against the same effect."""

import numpy as np
import polars as pl

from sae_pipeline.plots.figure import LIGHT, Theme, new_figure, set_title, to_png


def scatter(pairs: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: the drawn pairs of all prompts, one point each. `pairs`: attribution, activation, ablation, is_drawn."""
    drawn = pairs.filter("is_drawn")
    effect = drawn["ablation"].to_numpy()
    figure, axes = new_figure(theme, 1, 2, width=7.2, height=3.0, share_y=True)
    for axis, name, color in ((axes[0][0], "attribution", theme.main), (axes[0][1], "activation", theme.controls[0])):
        value = drawn[name].to_numpy()
        axis.scatter(value, effect, s=5, color=color, alpha=0.35, linewidths=0)
        varies = len(value) > 1 and np.ptp(value) > 0 and np.ptp(effect) > 0
        shown = f"{np.corrcoef(value, effect)[0, 1]:.2f}" if varies else "not defined"
        set_title(axis, f"{name}: correlation {shown}", theme)
        axis.set_xlabel(name + (" (logits)" if name == "attribution" else ""))
    axes[0][0].set_ylabel("effect of ablation (logits)")
    return to_png(figure)
