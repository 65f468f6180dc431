"""Computes the inline SVG plots of the report; the template `page.html` draws them.

All coordinates are SVG user units. A line with more points than the plot has columns is reduced
to the smallest and the largest value of each column, so no spike is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLOT_WIDTH = 900
AXIS_WIDTH = 76  # used by the template too
PANEL_HEIGHT, PANEL_GAP, TOP = 78, 20, 18
COLUMN_WIDTH = 2  # narrower columns double the size of the file and show no more on paper
BAND_WIDTH_MIN = 2.0

# Distances of time marks, seconds.
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
    """A mark in a panel."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message of an alert: its opening or an update."""

    time_us: int
    #: The threshold that the score exceeded.
    threshold: float
    title: str


@dataclass(frozen=True, slots=True)
class Band:
    """A marked span of time."""

    #: "alert" or "anomaly".
    kind: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One line plot over time."""

    label: str
    #: "value" or "score".
    kind: str
    top: float
    path: str
    ticks: tuple[Tick, ...]
    #: Messages, at the time and the threshold at which they were sent.
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels with a common time axis."""

    caption: str
    panels: tuple[Panel, ...]
    bands: tuple[Band, ...]
    times: tuple[Tick, ...]

    @property
    def depth(self) -> int:
        """The distance from the top of the first panel to the bottom of the last."""
        return len(self.panels) * (PANEL_HEIGHT + PANEL_GAP) - PANEL_GAP

    @property
    def height(self) -> int:
        """The height of the whole drawing."""
        return TOP + self.depth + PANEL_GAP + 8


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Maps event times to x."""

    first_us: int
    last_us: int

    def x(self, time_us: NDArray[Any] | int) -> NDArray[Any]:
        """Horizontal coordinates; they may be outside the plot."""
        length = max(1, self.last_us - self.first_us)
        return (np.asarray(time_us) - self.first_us) / length * PLOT_WIDTH

    def ticks(self, count: int = 9) -> tuple[Tick, ...]:
        """Marks at round times, about `count` at most."""
        length_s = max(1, (self.last_us - self.first_us) // 1_000_000)
        step_s = next((s for s in _TIME_STEPS_S if length_s / s <= count), _TIME_STEPS_S[-1])
        first_s = -(-self.first_us // 1_000_000 // step_s) * step_s
        marks = range(first_s, self.last_us // 1_000_000 + 1, step_s)
        form = "%b %d" if step_s >= _DAY_S else "%H:%M:%S" if step_s < 60 else "%b %d %H:%M"
        texts = (datetime.fromtimestamp(mark, UTC).strftime(form) for mark in marks)
        across = (float(self.x(mark * 1_000_000)) for mark in marks)
        return tuple(Tick(round(x, 1), text) for x, text in zip(across, texts, strict=True))

    def band(self, kind: str, first_us: int, last_us: int, *, title: str) -> Band | None:
        """A band that is wide enough to be visible; None if it is outside the axis."""
        if last_us < self.first_us or first_us > self.last_us:
            return None
        left = max(0.0, float(self.x(first_us)))
        right = min(float(PLOT_WIDTH), float(self.x(last_us)))
        width = max(BAND_WIDTH_MIN, right - left)
        return Band(kind, round(min(left, PLOT_WIDTH - width), 1), round(width, 1), title)


def value_panel(
    label: str, index: int, axis: TimeAxis, *, time_us: NDArray[Any], values: NDArray[Any]
) -> Panel:
    """The panel of a feature, on a linear axis.

    Args:
        label: the name of the feature.
        index: number of the panel from the top, 0 first.
        axis: the time axis.
        time_us: (T,) int64.
        values: (T,), NaN where missing.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    pad = (high - low) * 0.06 or max(abs(high), 1.0) * 0.5
    bounds = (low - pad, high + pad)
    to_y = _to_y(index, bounds)
    ticks = [Tick(to_y(mark), _short(mark)) for mark in round_marks(*bounds)]
    path_ = _line(index, axis, time_us=time_us, drawn=values, bounds=bounds)
    return Panel(label, "value", _top(index), path_, tuple(ticks))


def score_panel(
    index: int,
    axis: TimeAxis,
    *,
    time_us: NDArray[Any],
    score: NDArray[Any],
    unit: float,
    messages: Sequence[SentMessage] = (),
) -> Panel:
    """The panel of the score: linear up to about `unit`, logarithmic above.

    Scores of anomalies are orders of magnitude above the threshold. On a linear axis all other
    scores would be a flat line.

    Args:
        index: number of the panel from the top, 0 first.
        axis: the time axis.
        time_us: (T,) int64.
        score: (T,).
        unit: above 0; about the threshold of alerts.
        messages: those inside the axis are marked at their threshold.
    """

    def squash(value: float) -> float:
        return math.asinh(value / unit * 2)

    squashed = np.arcsinh(np.asarray(score, np.float64) / unit * 2)
    finite = squashed[np.isfinite(squashed)]
    low = min(float(finite.min(initial=0.0)), 0.0)
    high = max(float(finite.max(initial=0.0)), squash(unit) * 1.25)
    bounds = (low, high + 0.06 * (high - low))
    to_y = _to_y(index, bounds)
    scales = [0.0, unit] + [unit * 10**power for power in range(1, 12)]
    inside = [value for value in scales if squash(value) <= high]
    ticks = [Tick(to_y(squash(mark)), _short(mark)) for mark in inside[:2] + inside[2:][-2:]]
    marks = [
        Mark(round(float(axis.x(sent.time_us)), 1), to_y(squash(sent.threshold)), sent.title)
        for sent in messages
        if axis.first_us <= sent.time_us <= axis.last_us
    ]
    path_ = _line(index, axis, time_us=time_us, drawn=squashed, bounds=bounds)
    return Panel("score", "score", _top(index), path_, tuple(ticks), tuple(marks))


def _line(
    index: int,
    axis: TimeAxis,
    *,
    time_us: NDArray[Any],
    drawn: NDArray[Any],
    bounds: tuple[float, float],
) -> str:
    """The SVG path of the values `drawn`, (T,), in the panel `index`."""
    low, high = bounds
    return path(axis.x(time_us), _top(index) + PANEL_HEIGHT * (1 - (drawn - low) / (high - low)))


def _to_y(index: int, bounds: tuple[float, float]) -> Callable[[float], float]:
    """The function from values within `bounds` to y in the panel `index`."""
    low, high = bounds
    return lambda value: round(_top(index) + PANEL_HEIGHT * (1 - (value - low) / (high - low)), 1)


def _top(index: int) -> float:
    return TOP + index * (PANEL_HEIGHT + PANEL_GAP)


def round_marks(low: float, high: float, count: int = 3) -> list[float]:
    """Round numbers in `[low, high]`, about `count` at most.

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


def path(x: NDArray[Any], y: NDArray[Any]) -> str:
    """An SVG path through the points, x and y of shape (N,), interrupted where y is not finite.

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
        parts.append("h1")  # a single point would be invisible
    return "".join(parts)


def _extremes(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The points with the smallest and the largest y of each column, in order of x."""
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
    rows = np.array(keep)
    return column[rows] * COLUMN_WIDTH, y[rows]


def _coordinate(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _short(value: float) -> str:
    """A number for an axis, with at most three digits.

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
    """A figure of panels and bands; None is no band. Alerts are drawn above labelled anomalies."""
    inside = sorted((band for band in bands if band), key=lambda band: band.kind != "anomaly")
    return Figure(caption, tuple(panels), tuple(inside), axis.ticks())
