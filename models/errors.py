"""The exceptions of streamgauge, by who has to act.

    StreamgaugeError
    ├── ConfigError            the operator: raised before the job starts, exit code 2
    ├── EventError             the producer: becomes a dead letter, the job continues
    ├── ArtifactError          whoever deploys: the job stops
    ├── StateFormatError       whoever deploys: the job stops
    │   └── StateDamagedError  bytes were lost or altered; a shard may be reset instead
    └── TrainingError          training cannot continue; the message says what to change

Each message names the place, the rule and the offending value. `assert` is for errors in this
code, never for input.
"""

from __future__ import annotations


class StreamgaugeError(Exception):
    """Base class of all errors that streamgauge raises on purpose."""


class ConfigError(StreamgaugeError):
    """A setting, a file or a service that the operator named cannot be used."""


class EventError(StreamgaugeError):
    """An event cannot be processed.

    Args:
        reason: a constant of `models.events.validation`, used in counters and dead letters.
        detail: the field, the rule and the offending value.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ArtifactError(StreamgaugeError):
    """An artifact is missing, incomplete, altered, or another than the one that made the state."""


class StateFormatError(StreamgaugeError):
    """This release cannot read bytes in state; the message says what to do."""


class StateDamagedError(StateFormatError):
    """State is incomplete or altered: a checksum, a digest or a sequence number is wrong."""


class TrainingError(StreamgaugeError):
    """Training cannot continue; the message names the step and what to change."""
