"""The three figures of the report as inline SVG: the search's front, its progress, and predicted against measured milliseconds.

Colours and text sizes are CSS classes of the report's style sheet, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 66, 464, 30, 284
TOLERANCE = 0.05  # the band of the predicted-against-measured figure, relative to the measurement
SIMULATED = ", simulated device"
EMPTY = Markup("")


@dataclass(frozen=True)
class Point:
    """One architecture of a search: predicted milliseconds with interval, accuracy in [0, 1] (NaN: not evaluated)."""

    key: str
    latency_ms: float
    low_ms: float
    high_ms: float
    accuracy: float
    macs: int
    chosen: bool = False


@dataclass(frozen=True)
class Comparison:
    """One network, predicted (with interval) and measured in milliseconds. `noise`: relative difference between two runs."""

    name: str
    predicted_ms: float
    low_ms: float
    high_ms: float
    measured_ms: float
    noise: float

    @property
    def error(self) -> float:
        """Relative to the measurement; positive where the prediction is too slow."""
        return self.predicted_ms / self.measured_ms - 1


def significant(value: float, digits: int = 3) -> str:
    """A number for people: so many significant digits, no exponent between 1e-4 and 1e9, an en dash for NaN."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    rounded = float(f"{value:.{digits - 1}e}")
    if rounded == 0:
        return "0"
    if not 1e-4 <= abs(rounded) < 1e9:
        mantissa, exponent = f"{rounded:.{min(digits, 2) - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside [low, high]; `low` < `high`."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The ticks with as many decimals as their distance needs."""
    if len(values) < 2:
        return [significant(v) for v in values]
    decimals = next((d for d in range(12) if all(abs(v - round(v, d)) <= 1e-6 * (values[1] - values[0]) for v in values)), 12)
    return [f"{round(v, decimals) + 0.0:,.{decimals}f}" for v in values]


@dataclass(frozen=True)
class Axis:
    """A linear scale from data (low … high) to drawing units (start … end). `whole`: ticks are whole numbers."""

    label: str
    low: float
    high: float
    start: float
    end: float
    whole: bool = False

    @classmethod
    def around(cls, label: str, values: Iterable[float], start: float, end: float, *, whole: bool = False) -> Axis:
        """An axis that shows all finite values with some air around them."""
        shown = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(shown), max(shown)
        air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(label, low - air, high + air, start, end, whole)

    def ticks(self, about: int) -> list[float]:
        found = ticks(self.low, self.high, about)
        return [t for t in found if t == round(t)] if self.whole else found

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Chart:
    """Two axes, and what is drawn between them. `name` is unique in the page."""

    name: str
    title: str
    description: str
    x: Axis
    y: Axis

    def dot(self, x: float, y: float, tip: str, css: str, radius: float) -> Markup:
        """A round mark whose tooltip is `tip`."""
        return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
            css, self.x(x), self.y(y), radius, tip
        )

    def line(self, points: Sequence[tuple[float, float]], css: str) -> Markup:
        """Straight lines from point to point."""
        return Markup('<polyline class="{}" points="{}"/>').format(css, " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points))

    def area(self, points: Sequence[tuple[float, float]], css: str) -> Markup:
        return Markup('<polygon class="{}" points="{}"/>').format(css, " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points))

    def draw(self, marks: Iterable[Markup], above: Markup = EMPTY) -> Markup:
        """The whole figure; marks are cut off at the frame, `above` is not."""
        head = Markup(
            '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-title {n}-desc">'
            '<title id="{n}-title">{title}</title><desc id="{n}-desc">{desc}</desc>'
            '<clipPath id="{n}-frame"><rect x="{left}" y="{top}" width="{inner_w}" height="{inner_h}"/></clipPath>'
        ).format(
            w=WIDTH,
            h=HEIGHT,
            n=self.name,
            title=self.title,
            desc=self.description,
            left=LEFT,
            top=TOP,
            inner_w=RIGHT - LEFT,
            inner_h=BOTTOM - TOP,
        )
        body = Markup('<g clip-path="url(#{}-frame)">{}</g>').format(self.name, EMPTY.join(marks))
        return head + self._grid() + body + above + Markup("</svg>")

    def _grid(self) -> Markup:
        parts = []
        at_x, at_y = self.x.ticks(7), self.y.ticks(5)
        for value, label in zip(at_x, tick_labels(at_x), strict=True):
            px = self.x(value)
            parts.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(px, TOP, BOTTOM))
            parts.append(Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(px, BOTTOM + 19, label))
        for value, label in zip(at_y, tick_labels(at_y), strict=True):
            py = self.y(value)
            parts.append(Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(py, LEFT, RIGHT))
            parts.append(Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 8, py + 4, label))
        middle_x, middle_y = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
        parts.append(
            Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(middle_x, 330, self.x.label)
        )
        parts.append(
            Markup('<text class="axis" transform="translate(15 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
                middle_y, self.y.label
            )
        )
        return EMPTY.join(parts)


def pareto(front: Sequence[Point], evaluated: Sequence[Point], limit_ms: float, simulated: bool) -> Markup:
    """Accuracy over predicted latency: every evaluated architecture, the front with intervals, the chosen one, the limit."""
    shown = [p for p in evaluated if math.isfinite(p.accuracy) and math.isfinite(p.latency_ms)]
    best = sorted((p for p in front if math.isfinite(p.accuracy)), key=lambda p: p.latency_ms)
    every = [*shown, *best]
    chart = Chart(
        "pareto",
        f"Accuracy over predicted latency{SIMULATED if simulated else ''}",
        f"{len(shown)} evaluated architectures, {len(best)} of them on the front; the limit is {significant(limit_ms)} ms.",
        Axis.around(
            f"predicted latency (ms{SIMULATED if simulated else ''})",
            [limit_ms, *(p.latency_ms for p in every), *(v for p in best for v in (p.low_ms, p.high_ms))],
            LEFT,
            RIGHT,
        ),
        Axis.around("accuracy in the supernet (%)", [100 * p.accuracy for p in every], BOTTOM, TOP),
    )
    marks = [chart.dot(p.latency_ms, 100 * p.accuracy, _tip(p), "seen", 2.6) for p in shown]
    marks.append(chart.line([(limit_ms, chart.y.low), (limit_ms, chart.y.high)], "limit"))
    stairs: list[tuple[float, float]] = []
    for p in best:
        if stairs:
            stairs.append((p.latency_ms, stairs[-1][1]))
        stairs.append((p.latency_ms, 100 * p.accuracy))
    marks.append(chart.line(stairs, "trace"))
    marks += [chart.line([(p.low_ms, 100 * p.accuracy), (p.high_ms, 100 * p.accuracy)], "interval") for p in best]
    marks += [chart.dot(p.latency_ms, 100 * p.accuracy, _tip(p), "mark", 4) for p in best]
    marks += [chart.dot(p.latency_ms, 100 * p.accuracy, f"chosen: {_tip(p)}", "ring", 8) for p in every if p.chosen][:1]
    at = min(max(chart.x(limit_ms), LEFT + 44), RIGHT - 44)
    label = Markup('<text class="note" x="{}" y="{}" text-anchor="middle">limit {} ms</text>').format(
        at, TOP - 9, significant(limit_ms)
    )
    return chart.draw(marks, label)


def hypervolume(history: Sequence[float]) -> Markup:
    """Hypervolume of the front over generations."""
    points = [(float(i + 1), v) for i, v in enumerate(history) if math.isfinite(v)]
    last = f" It ends at {significant(points[-1][1])}." if points else ""
    chart = Chart(
        "hypervolume",
        "Hypervolume of the front over generations",
        f"{len(points)} generations.{last}",
        Axis.around("generation", [x for x, _ in points], LEFT, RIGHT, whole=True),
        Axis.around("hypervolume", [y for _, y in points], BOTTOM, TOP),
    )
    dots = [chart.dot(x, y, f"generation {x:.0f}: {significant(y)}", "mark", 3) for x, y in points]
    return chart.draw([chart.line(points, "trace"), *dots])


def agreement(tests: Sequence[Comparison], final: Comparison, simulated: bool) -> Markup:
    """Predicted over measured milliseconds with intervals, the ±5 % band, and the final model."""
    shown = [c for c in (*tests, final) if math.isfinite(c.predicted_ms) and math.isfinite(c.measured_ms)]
    inside = sum(abs(c.error) <= TOLERANCE for c in shown)
    where = SIMULATED if simulated else ""
    values = [v for c in shown for v in (c.predicted_ms, c.measured_ms, c.low_ms, c.high_ms)]
    chart = Chart(
        "agreement",
        f"Predicted over measured latency{where}",
        f"{inside} of {len(shown)} networks lie within {TOLERANCE:.0%} of their measurement.",
        Axis.around(f"measured (ms{where})", values, LEFT, RIGHT),
        Axis.around("predicted (ms)", values, BOTTOM, TOP),
    )
    low, high = chart.x.low, chart.x.high
    band = [(x, x * (1 + sign * TOLERANCE)) for x, sign in ((low, -1), (high, -1), (high, 1), (low, 1))]
    marks = [chart.area(band, "band"), chart.line([(low, low), (high, high)], "equal")]
    others = [c for c in shown if c is not final]
    marks += [chart.line([(c.measured_ms, c.low_ms), (c.measured_ms, c.high_ms)], "interval") for c in others]
    marks += [chart.dot(c.measured_ms, c.predicted_ms, _said(c), "mark", 3) for c in others]
    if len(others) < len(shown):
        marks.append(chart.line([(final.measured_ms, final.low_ms), (final.measured_ms, final.high_ms)], "trace"))
        marks.append(chart.dot(final.measured_ms, final.predicted_ms, _said(final), "mark", 3))
        marks.append(chart.dot(final.measured_ms, final.predicted_ms, _said(final), "ring", 7))
    return chart.draw(marks)


def _tip(p: Point) -> str:
    interval = f"{significant(p.low_ms)}–{significant(p.high_ms)}"
    return f"{p.key}: {significant(p.latency_ms)} ms ({interval}), {100 * p.accuracy:.1f} %, {significant(p.macs / 1e6)} M MACs"


def _said(c: Comparison) -> str:
    return (
        f"{c.name}: measured {significant(c.measured_ms)} ms, predicted {significant(c.predicted_ms)} ms ({100 * c.error:+.1f} %)"
    )
