"""Which alerts a person wants to see: by entity, severity and time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from streamgauge.models.errors import ConfigError

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+)([smhd])")


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Takes the alerts that pass every condition; without conditions all of them."""

    #: Ids of entities; empty for all.
    entities: frozenset[str] = frozenset()
    #: "warning" or "critical"; None for both.
    severity: str | None = None
    #: Earliest event time, microseconds since 1970; None for any.
    since_us: int | None = None

    def takes(self, alert: Mapping[str, Any]) -> bool:
        """Whether the alert record passes."""
        return (
            (not self.entities or alert["entity_id"] in self.entities)
            and self.severity in (None, alert["severity"])
            and (self.since_us is None or alert["event"]["time_us"] >= self.since_us)
        )


def since_us(text: str, now_s: float) -> int:
    """The time that `--since` names, microseconds since 1970.

    >>> since_us("2024-01-01", now_s=0.0), since_us("90m", now_s=1_704_067_200.0)
    (1704067200000000, 1704061800000000)

    Args:
        text: an ISO 8601 time, UTC if it has no zone, or a duration before now: 30s, 90m, 24h, 7d.
        now_s: the time now, seconds since 1970.

    Raises:
        ConfigError: the text is neither.
    """
    if duration := _DURATION.fullmatch(text.strip()):
        seconds = int(duration[1]) * _UNITS_S[duration[2]]
        return round((now_s - seconds) * 1e6)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(
            "--since: must be an ISO 8601 time, or a duration as 90m, 24h or 7d; got " + repr(text)
        ) from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(zoned.timestamp() * 1e6)
