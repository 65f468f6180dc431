"""Numbers for the inline SVG plots of the report; the template draws them.

All coordinates are SVG user units. A line with more points than the plot is wide keeps
the smallest and the largest value of every column, so no spike is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

PLOT_WIDTH = 900
AXIS_WIDTH = 76  # the template uses it, too
PANEL_HEIGHT, PANEL_GAP, TOP = 78, 20, 18
COLUMN_WIDTH = 2  # narrower columns double the file and show no more on paper
BAND_WIDTH_MIN = 2.0

# Distances of time marks, seconds; the largest few are whole weeks and 30 days.
_TIME_STEPS_S: tuple[int, ...] = (1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
_DAY_S = 86_400
_TIME_STEPS_S += tuple(days * _DAY_S for days in (1, 2, 5, 7, 14, 30, 90, 365))


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a panel."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Message:
    """Something that people were told."""

    time_us: int
    #: What the score had to pass.
    threshold: float
    title: str


@dataclass(frozen=True, slots=True)
class Band:
    """A marked stretch of time."""

    #: "alert" or "incident".
    kind: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One line over time."""

    label: str
    #: "value" or "score".
    kind: str
    top: float
    path: str
    ticks: tuple[Tick, ...]
    #: Messages: when they were sent, and the score that had to be passed then.
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels over one common time axis."""

    caption: str
    panels: tuple[Panel, ...]
    bands: tuple[Band, ...]
    times: tuple[Tick, ...]

    @property
    def depth(self) -> int:
        """From the top of the first panel to the bottom of the last."""
        return len(self.panels) * (PANEL_HEIGHT + PANEL_GAP) - PANEL_GAP

    @property
    def height(self) -> int:
        """Height of the whole drawing."""
        return TOP + self.depth + PANEL_GAP + 8


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Maps event times to x."""

    first_us: int
    last_us: int

    def x(self, time_us: np.ndarray | int) -> np.ndarray:
        """Horizontal places, not bounded to the plot."""
        length = max(1, self.last_us - self.first_us)
        return (np.asarray(time_us) - self.first_us) / length * PLOT_WIDTH

    def ticks(self, count: int = 9) -> tuple[Tick, ...]:
        """Marks at round times, at most about `count` of them."""
        length_s = max(1, (self.last_us - self.first_us) // 1_000_000)
        step_s = next((s for s in _TIME_STEPS_S if length_s / s <= count), _TIME_STEPS_S[-1])
        first_s = -(-self.first_us // 1_000_000 // step_s) * step_s
        marks = range(first_s, self.last_us // 1_000_000 + 1, step_s)
        form = "%b %d" if step_s >= _DAY_S else "%H:%M:%S" if step_s < 60 else "%b %d %H:%M"
        texts = (datetime.fromtimestamp(mark, UTC).strftime(form) for mark in marks)
        places = (float(self.x(mark * 1_000_000)) for mark in marks)
        return tuple(Tick(round(at, 1), text) for at, text in zip(places, texts, strict=True))

    def band(self, kind: str, first_us: int, last_us: int, title: str) -> Band | None:
        """A band, kept wide enough to be seen; None if it lies outside."""
        if last_us < self.first_us or first_us > self.last_us:
            return None
        left = max(0.0, float(self.x(first_us)))
        right = min(float(PLOT_WIDTH), float(self.x(last_us)))
        width = max(BAND_WIDTH_MIN, right - left)
        return Band(kind, round(min(left, PLOT_WIDTH - width), 1), round(width, 1), title)


def value_panel(
    label: str, place: int, axis: TimeAxis, time_us: np.ndarray, values: np.ndarray
) -> Panel:
    """A panel for a feature, values (T,) with NaN for missing, on a linear axis."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    pad = (high - low) * 0.06 or max(abs(high), 1.0) * 0.5
    bounds = (low - pad, high + pad)
    height = _heights(place, bounds)
    ticks = [Tick(height(mark), _short(mark)) for mark in round_marks(*bounds)]
    return _panel(label, "value", place, axis, time_us, values, bounds, ticks)


def score_panel(
    place: int,
    axis: TimeAxis,
    time_us: np.ndarray,
    score: np.ndarray,
    unit: float,
    messages: Sequence[Message] = (),
) -> Panel:
    """The score panel: linear up to about `unit`, logarithmic beyond it.

    Scores of incidents lie orders of magnitude above those that are told at all; on a linear
    axis everything else would be a flat line.

    Args:
        place: from the top, 0 first.
        axis: the time that is shown.
        time_us: (T,) int64.
        score: (T,).
        unit: above 0; about the score from which on events are told.
        messages: drawn where they lie inside, at what the score had to pass.
    """

    def squash(value: float) -> float:
        return math.asinh(value / unit * 2)

    squashed = np.arcsinh(np.asarray(score, np.float64) / unit * 2)
    finite = squashed[np.isfinite(squashed)]
    low = min(float(finite.min(initial=0.0)), 0.0)
    high = max(float(finite.max(initial=0.0)), squash(unit) * 1.25)
    bounds = (low, high + 0.06 * (high - low))
    height = _heights(place, bounds)
    scales = [0.0, unit] + [unit * 10**power for power in range(1, 12)]
    inside = [value for value in scales if squash(value) <= high]
    ticks = [Tick(height(squash(one)), _short(one)) for one in inside[:2] + inside[2:][-2:]]
    marks = [
        Mark(round(float(axis.x(one.time_us)), 1), height(squash(one.threshold)), one.title)
        for one in messages
        if axis.first_us <= one.time_us <= axis.last_us
    ]
    panel = _panel("score", "score", place, axis, time_us, squashed, bounds, ticks)
    return replace(panel, marks=tuple(marks))


def _panel(
    label: str,
    kind: str,
    place: int,
    axis: TimeAxis,
    time_us: np.ndarray,
    drawn: np.ndarray,
    bounds: tuple[float, float],
    ticks: Sequence[Tick],
) -> Panel:
    top, (low, high) = _top(place), bounds
    heights = top + PANEL_HEIGHT * (1 - (drawn - low) / (high - low))
    return Panel(label, kind, top, path(axis.x(time_us), heights), tuple(ticks))


def _heights(place: int, bounds: tuple[float, float]) -> Callable[[float], float]:
    """Where values lie in the panel at `place` that shows what lies within `bounds`."""
    low, high = bounds
    return lambda value: round(_top(place) + PANEL_HEIGHT * (1 - (value - low) / (high - low)), 1)


def _top(place: int) -> float:
    return TOP + place * (PANEL_HEIGHT + PANEL_GAP)


def round_marks(low: float, high: float, count: int = 3) -> list[float]:
    """Up to about `count` round numbers in `[low, high]`.

    >>> round_marks(0.03, 0.97)
    [0.5]
    >>> round_marks(-1, 11)
    [0.0, 5.0, 10.0]
    """
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= count:
            step *= factor
            break
    first = math.ceil(low / step)
    return [mark * step for mark in range(first, math.floor(high / step) + 1)]


def path(x: np.ndarray, y: np.ndarray) -> str:
    """An SVG path through the points, (N,) each, broken where y is not finite.

    >>> path(np.array([0, 1, 2, 3]), np.array([5.0, 6.0, np.nan, 7.0]))
    'M0 5L1 6M3 7h1'
    """
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if len(x) > 2 * PLOT_WIDTH // COLUMN_WIDTH:
        x, y = _extremes(x, y)
    parts, drawing, single = [], False, False
    for across, down in zip(x.tolist(), y.tolist(), strict=True):
        if not math.isfinite(down):
            if drawing and single:
                parts.append("h1")
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{_coordinate(across)} {_coordinate(down)}")
        drawing, single = True, not drawing
    if drawing and single:
        parts.append("h1")  # a lone point would be invisible
    return "".join(parts)


def _extremes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest y of each column of the plot, in the order they came."""
    column = np.floor(x / COLUMN_WIDTH).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    ends = np.append(starts[1:], len(x))
    keep: list[int] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        part = y[start:end]
        finite = np.flatnonzero(np.isfinite(part))
        if not len(finite):
            keep.append(start)
            continue
        low, high = finite[part[finite].argmin()], finite[part[finite].argmax()]
        keep.extend(start + np.unique((low, high)))
    places = np.array(keep)
    return column[places] * COLUMN_WIDTH, y[places]


def _coordinate(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _short(value: float) -> str:
    """A number for an axis, at most three digits.

    >>> [_short(value) for value in (0, 0.25, 1234.5, 2_000_000)]
    ['0', '0.25', '1.23k', '2M']
    """
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def figure(
    caption: str, axis: TimeAxis, panels: Sequence[Panel], bands: Sequence[Band | None]
) -> Figure:
    """A figure of those bands that lie inside; alerts come last and are drawn on top."""
    inside = sorted((band for band in bands if band), key=lambda band: band.kind != "incident")
    return Figure(caption, tuple(panels), tuple(inside), axis.ticks())
