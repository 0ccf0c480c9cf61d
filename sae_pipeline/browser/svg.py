"""Small charts as SVG, drawn on the server: no script, colours from the style sheet (dark and light), text for screen readers.

Every label is escaped here; the result is `Markup`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 36
MAX_TICKS = 8


@dataclass(frozen=True)
class Bar:
    """A bar of stacked segments [(css class, height)], in the units of the axis."""

    label: str
    segments: Sequence[tuple[str, float]]
    hint: str


@dataclass(frozen=True)
class Line:
    """A line through points; a point without value breaks it."""

    name: str
    css: str
    points: Sequence[tuple[float, float | None]]


def bars(title: str, items: Sequence[Bar], x_label: str, y_label: str, tick: Callable[[float], str] = "{:,.3g}".format) -> Markup:
    """Stacked bars over named places. `tick` writes the numbers at the vertical axis."""
    top = max((sum(height for _, height in item.segments) for item in items), default=0) or 1
    step = (WIDTH - LEFT - RIGHT) / max(len(items), 1)
    parts = [_y_axis(0, top, y_label, tick)]
    for at, item in enumerate(items):
        x, base = LEFT + at * step, 0.0
        drawn = []
        for css, height in item.segments:
            y0, y1 = _y(base, 0, top), _y(base + height, 0, top)
            drawn.append(
                Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    css, x + step * 0.08, y1, step * 0.84, y0 - y1
                )
            )
            base += height
        parts.append(Markup("<g><title>{}</title>{}</g>").format(item.hint, Markup("").join(drawn)))
        parts.append(_text(x + step / 2, HEIGHT - BOTTOM + 15, item.label, "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    return _figure(title, parts)


def lines(
    title: str,
    series: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    log2_x: bool = False,
) -> Markup:
    """Lines with points; the legend stands in the page beside it (`legend`)."""
    values = [y for line in series for _, y in line.points if y is not None]
    xs = sorted({x for line in series for x, _ in line.points})
    low, high = y_range or _padded(min(values, default=0.0), max(values, default=1.0))
    parts = [_y_axis(low, high, y_label, "{:,.3g}".format)]
    for x in xs[:: -(-len(xs) // MAX_TICKS)]:
        parts.append(_text(_x(x, xs, log2_x), HEIGHT - BOTTOM + 15, f"{x:,.4g}" if x < 1e4 else f"{x:,.0f}", "middle"))
    for line in series:
        known = [(_x(x, xs, log2_x), _y(y, low, high), x, y) for x, y in line.points if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in known)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(line.css, path))
        for x, y, x_value, y_value in known:
            hint = f"{line.name}: {y_value:.3g} at {x_value:,.6g}"
            circle = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
            parts.append(circle.format(line.css, x, y, hint))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    return _figure(title, parts)


def _x(value: float, xs: Sequence[float], log2_x: bool) -> float:
    """Logarithmic axes need positive values; with one value it stands in the middle."""
    from math import log2

    scale = log2 if log2_x else float
    low, high = scale(xs[0]), scale(xs[-1])
    share = 0.5 if high == low else (scale(value) - low) / (high - low)
    return LEFT + 18 + share * (WIDTH - LEFT - RIGHT - 36)


def _y(value: float, low: float, high: float) -> float:
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.15 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _y_axis(low: float, high: float, label: str, tick: Callable[[float], str]) -> Markup:
    parts = []
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        y = _y(value, low, high)
        parts.append(Markup('<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(_text(LEFT - 6, y + 3.5, tick(value), "end"))
    side = Markup('<text class="axis" transform="translate(11 {:.0f}) rotate(-90)" text-anchor="middle">{}</text>')
    return Markup("").join([*parts, side.format(TOP + (HEIGHT - TOP - BOTTOM) / 2, label)])


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _figure(title: str, parts: Sequence[Markup]) -> Markup:
    opening = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)
    return opening + Markup("").join(parts) + Markup("</svg>") if parts else escape("")
