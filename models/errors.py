"""The exceptions of streamgauge, by whose fault they are.

    StreamgaugeError
    ├── ConfigError            the operator's: before the job starts, exit code 2
    ├── EventError             the sender's: becomes a dead letter, the job goes on
    ├── ArtifactError          the deployment's: the job stops, loudly
    ├── StateFormatError       the deployment's: the job stops, loudly
    │   └── StateDamagedError  bytes were lost or altered; a shard may be reset instead
    └── TrainingError          training cannot go on; says what to change

Each text names where, the rule, and what came instead. `assert` is for our own
mistakes and never for input.
"""

from __future__ import annotations


class StreamgaugeError(Exception):
    """Root of all errors that streamgauge raises on purpose."""


class ConfigError(StreamgaugeError):
    """A setting, a file or a service the operator named is not usable as given."""


class EventError(StreamgaugeError):
    """An event cannot be processed; `reason` is a short constant for counters.

    Args:
        reason: a constant of `models.events.decoder`, the same for all events with this fault.
        detail: the field, the rule and what came instead.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ArtifactError(StreamgaugeError):
    """An artifact is missing, incomplete, altered, or not the one the state was made with."""


class StateFormatError(StreamgaugeError):
    """Bytes in state are not a segment this build can read; the message says how to repair."""


class StateDamagedError(StateFormatError):
    """State is incomplete or altered: a checksum, a digest or a sequence does not hold."""


class TrainingError(StreamgaugeError):
    """Training cannot go on; the message names the step and what to change."""
