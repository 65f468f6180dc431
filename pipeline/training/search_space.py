"""What `streamgauge tune` searches: fields of `TrainingSettings` and their ranges.

Not searched: `epochs`, since the learning rate falls over all of them and trials are
compared epoch by epoch; `lags`, which decide about the linear part; and whatever splits
the data or seeds the training. Nothing heavy is imported, so that `--help` can say it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """All floats between two."""

    low: float
    high: float
    #: Equal shares of trials per power of ten, rather than per unit.
    is_log: bool = False

    def __contains__(self, value: float) -> bool:
        """Both ends belong to it."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        """As in `--help`."""
        return f"{self.low:g} to {self.high:g}{' (log)' if self.is_log else ''}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few."""

    values: tuple[int, ...]

    def __contains__(self, value: int) -> bool:
        """Whether it is one of them."""
        return value in self.values

    def __str__(self) -> str:
        """As in `--help`."""
        return "|".join(str(value) for value in self.values)


#: The defaults of `TrainingSettings` lie inside: they are the first trial.
SPACE: dict[str, Range | Choice] = {
    # Each unit is four bytes in the memory of every entity, and time for every event.
    "hidden": Choice((16, 32, 64, 128)),
    "learning_rate": Range(5e-4, 2e-2, is_log=True),
    # Fewer rows and shorter chunks are more steps an epoch, which small data sets need.
    "rows": Choice((48, 96, 192)),
    "chunk": Choice((32, 64, 128)),
    "channel_drop": Range(0.0, 0.5),
    "noise": Range(0.0, 0.5),
}


def in_words() -> str:
    """The whole space in one line."""
    return "; ".join(f"{name} {values}" for name, values in SPACE.items())
