"""Two charts as inline SVG: accuracy against k, and what was said of votes against what came true.

Sizes are pixels of a drawing 360 wide, which is what a phone has: it grows with the page, never shrinks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from index.manifest import ReliabilityBin

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 348, 28, 200  # the edges of what lies between the axes
K_TICKS = (1, 2, 5, 10, 20, 50, 100)
STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # between the ticks of a share's axis
MOST_TICKS = 5


@dataclass(frozen=True)
class Curve:
    """Shares at rising k, called `name`; `interval` is (k, low, high) where one is known."""

    name: str
    points: tuple[tuple[int, float], ...]
    interval: tuple[int, float, float] | None = None


@dataclass(frozen=True)
class Scale:
    """Where the values from `low` to `high` lie on a line from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def curves_svg(curves: Sequence[Curve]) -> str:
    """Curves over a logarithmic axis of k; the axis of shares begins where the curves do."""
    shares = [share for curve in curves for _, share in curve.points]
    shares += [share for curve in curves if curve.interval for share in curve.interval[1:]]
    ticks = share_ticks(min(shares), max(shares))
    last = max(k for curve in curves for k, _ in curve.points)
    x = Scale(0, math.log(max(last, 2)), LEFT + 8, RIGHT - 8)
    y = Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    marks = [_tick_y(y(tick), f"{100 * tick:.3g} %") for tick in ticks]
    marks += [_tick_x(x(math.log(k)), str(k)) for k in K_TICKS if k <= last]
    drawn = [_curve_svg(curve, number, x, y) for number, curve in enumerate(curves)]
    label = "k-NN accuracy against k: the values are in the table below"
    return _svg(label, "accuracy", "k, how many neighbors vote", [*marks, *drawn])


def legend_html(curves: Sequence[Curve]) -> str:
    names = (
        f'<li class="curve-{number}"><i></i>{escape(curve.name)}</li>' for number, curve in enumerate(curves)
    )
    return f'<ul class="chart-legend">{"".join(names)}</ul>'


def reliability_svg(bins: Sequence[ReliabilityBin]) -> str:
    """What was said of votes (to the right) and what share was right (up); larger circles hold more votes."""
    shares = [share for row in bins for share in (row.stated, row.right / row.count)]
    ticks = share_ticks(min(shares), 1.0)
    x = Scale(ticks[0], ticks[-1], LEFT + 8, RIGHT - 8)
    y = Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    marks = [_tick_y(y(tick), f"{100 * tick:.3g} %") for tick in ticks]
    marks += [_tick_x(x(tick), f"{100 * tick:.3g} %") for tick in ticks]
    ends = f'x1="{x(ticks[0]):.1f}" y1="{y(ticks[0]):.1f}" x2="{x(ticks[-1]):.1f}" y2="{y(ticks[-1]):.1f}"'
    most = max(row.count for row in bins)
    circles = [_bin_svg(row, x, y, 4 + 8 * math.sqrt(row.count / most)) for row in bins]
    label = "Votes said to be right against votes that were: the values are in the table below"
    return _svg(
        label, "were right", "said to be right", [*marks, f'<line class="chart-even" {ends}/>', *circles]
    )


def share_ticks(low: float, high: float) -> list[float]:
    """At least two round shares, a few more at most, from below `low` to above `high`."""
    step = next((step for step in STEPS if (high - low) / step <= MOST_TICKS - 1), STEPS[-1])
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 6) for number in range(first, max(last, first + 1) + 1)]


def _svg(label: str, beside: str, below: str, parts: Sequence[str]) -> str:
    """The parts with the names of both axes."""
    titles = (
        f'<text x="{LEFT}" y="12">{escape(beside)}</text>'
        f'<text class="chart-title" x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 4}">{escape(below)}</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}{titles}</svg>"
    )


def _tick_y(at: float, text: str) -> str:
    line = f'<line class="chart-grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
    return f'{line}<text class="chart-y" x="{LEFT - 6}" y="{at + 4:.1f}">{text}</text>'


def _tick_x(at: float, text: str) -> str:
    line = f'<line class="chart-tick" x1="{at:.1f}" x2="{at:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 4}"/>'
    return f'{line}<text class="chart-x" x="{at:.1f}" y="{BOTTOM + 18}">{text}</text>'


def _curve_svg(curve: Curve, number: int, x: Scale, y: Scale) -> str:
    places = [(x(math.log(k)), y(share)) for k, share in curve.points]
    line = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    dots = [
        _dot_svg(left, top, 3, f"{curve.name}, k = {k}: {100 * share:.2f} %")
        for (k, share), (left, top) in zip(curve.points, places, strict=True)
    ]
    drawn = f'{_interval_svg(curve, x, y)}<polyline points="{line}"/>{"".join(dots)}'
    return f'<g class="curve-{number}">{drawn}</g>'


def _interval_svg(curve: Curve, x: Scale, y: Scale) -> str:
    if curve.interval is None:
        return ""
    k, low, high = curve.interval
    at, top, bottom = x(math.log(k)), y(high), y(low)
    path = f"M{at - 5:.1f} {top:.1f}h10m-5 0V{bottom:.1f}m-5 0h10"
    return f'<path d="{path}"><title>95 % interval: {100 * low:.2f} to {100 * high:.2f} %</title></path>'


def _bin_svg(row: ReliabilityBin, x: Scale, y: Scale, radius: float) -> str:
    right = row.right / row.count
    words = f"said {100 * row.stated:.1f} %, right {100 * right:.1f} % of {row.count:,} votes"
    return f'<g class="curve-0 bin">{_dot_svg(x(row.stated), y(right), radius, words)}</g>'


def _dot_svg(left: float, top: float, radius: float, words: str) -> str:
    """A dot with its values for whoever points at it, which need not be done to the pixel."""
    place = f'cx="{left:.1f}" cy="{top:.1f}"'
    reach = f'<circle class="reach" {place} r="{max(radius, 10):.1f}"/>'
    return f'<g><title>{escape(words)}</title><circle {place} r="{radius:.1f}"/>{reach}</g>'
