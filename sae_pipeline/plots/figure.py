"""What every figure shares: the look (light and dark), and PNG bytes that are small and the same every time.

Only matplotlib's object API is used: no pyplot, so no global state, no display, and figures may be drawn in threads.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from PIL import Image

DPI = 120
N_COLORS = 64  # a palette PNG is a third of the size of a true-colour one; flat figures lose nothing


@dataclass(frozen=True)
class Theme:
    """Colours of one look. `scores` are the rubric's levels 0-3, pale to strong; `controls` are never as loud as `main`."""

    name: str
    background: str
    foreground: str
    muted: str
    grid: str
    main: str
    second: str
    controls: tuple[str, ...]
    sizes: tuple[str, str]
    scores: tuple[str, str, str, str]


LIGHT = Theme(
    name="light", background="#ffffff", foreground="#1f2328", muted="#656d76", grid="#e4e7eb", main="#c2410c", second="#1d4f7c",
    controls=("#6b7280", "#8b6fb3", "#3a8f85", "#a08a3c"), sizes=("#8fb8de", "#143d66"),
    scores=("#e3ddd3", "#b3cde0", "#5f97c3", "#1d4f7c"),
)  # fmt: skip
DARK = Theme(
    name="dark", background="#14171b", foreground="#e6e8eb", muted="#9aa3ad", grid="#2b3138", main="#fb923c", second="#7db7e8",
    controls=("#9ca3af", "#b9a0dd", "#6cc4b8", "#d1bc6c"), sizes=("#3f6d99", "#cfe6fb"),
    scores=("#3a3d42", "#3c6488", "#68a5d6", "#c9e5fb"),
)  # fmt: skip
THEMES = (LIGHT, DARK)


def new_figure(
    theme: Theme, n_rows: int = 1, n_columns: int = 1, width: float = 6.4, height: float = 3.2, share_y: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure in inches with a grid of styled axes (rows of columns)."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=share_y)
    axes = [[_styled(axis, theme) for axis in row] for row in grid]
    return figure, axes


def _styled(axis: Axes, theme: Theme) -> Axes:
    axis.set_facecolor(theme.background)
    axis.tick_params(which="both", colors=theme.muted, labelsize=8, length=3)
    axis.grid(True, axis="y", color=theme.grid, linewidth=0.8)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    for text in (axis.xaxis.label, axis.yaxis.label):
        text.set_color(theme.muted)
        text.set_fontsize(8)
    return axis


def set_title(axis: Axes, text: str, theme: Theme, pad: float = 6) -> None:
    """A panel's title, flush left."""
    axis.set_title(text, loc="left", fontsize=9, color=theme.foreground, pad=pad)


def legend(axis: Axes, theme: Theme, **options) -> None:
    """A frameless legend in the theme's ink."""
    shown = axis.legend(frameon=False, fontsize=8, **options)
    for text in shown.get_texts():
        text.set_color(theme.foreground)


def size_colors(sizes: Sequence[int], theme: Theme) -> dict[int, str]:
    """One colour per SAE size on a one-hue ramp: larger is stronger."""
    ramp = LinearSegmentedColormap.from_list("sizes", list(theme.sizes))
    ordered = sorted(sizes)
    last = max(len(ordered) - 1, 1)
    return {size: to_hex(ramp(1.0 if len(ordered) == 1 else at / last)) for at, size in enumerate(ordered)}


def size_axis(axis: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis of SAE sizes with a tick at each."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(sizes), [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.margins(x=0.12)


def to_png(figure: Figure) -> bytes:
    """The figure as palette PNG: equal figures give equal bytes (no dates, no software version)."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    image = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1).convert("RGB")
    buffer = io.BytesIO()
    palette = image.quantize(N_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_figure(folder: Path, name: str, draw: Callable[[Theme], bytes]) -> None:
    """Write `<name>.light.png` and `<name>.dark.png`."""
    for theme in THEMES:
        (folder / f"{name}.{theme.name}.png").write_bytes(draw(theme))
