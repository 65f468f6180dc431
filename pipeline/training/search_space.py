"""The search space of `streamgauge tune`: fields of `TrainingSettings` and their ranges.

Three kinds of settings are not searched. `epochs`: the learning rate decays over all epochs,
and trials are compared epoch by epoch. `lags`: they belong to the linear part. And settings
that split the data or seed the training. The module imports no large library, because `--help`
shows the space.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FloatRange:
    """All floats between two bounds."""

    low: float
    high: float
    #: Sample on a logarithmic scale.
    is_log: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether `value` is within the bounds, both included."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        """The text in `--help`."""
        return f"{self.low:g} to {self.high:g}{' (log)' if self.is_log else ''}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[int, ...]

    def __contains__(self, value: int) -> bool:
        """Whether `value` is one of them."""
        return value in self.values

    def __str__(self) -> str:
        """The text in `--help`."""
        return "|".join(str(value) for value in self.values)


#: The defaults of `TrainingSettings` are inside the space; they are the first trial.
SPACE: dict[str, FloatRange | Choice] = {
    # Each unit adds four bytes to the state of every entity, and time to every event.
    "hidden": Choice((16, 32, 64, 128)),
    "learning_rate": FloatRange(5e-4, 2e-2, is_log=True),
    # Fewer rows and shorter chunks give more steps per epoch, which small data sets need.
    "rows": Choice((48, 96, 192)),
    "chunk": Choice((32, 64, 128)),
    "channel_drop": FloatRange(0.0, 0.5),
    "noise": FloatRange(0.0, 0.5),
}


def in_words() -> str:
    """The search space as one line of text."""
    return "; ".join(f"{name} {values}" for name, values in SPACE.items())
