"""From scores to episodes: sustained k of n, with hysteresis.

An episode opens when k of an entity's last n events score above the opening threshold,
and closes when `close_after` events in a row score below the lower closing threshold.
One opened and one closed alert per episode, however long it lasts.

    score     ▁▁▁▁▆▁▇▇▇▇▆▄▅▃▁▁▁▁▁▁
    exceeds       x xxxxx                      k = 3, n = 5
    episode           ├──────────────┤         closes after 5 calm events
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.calibration import Calibration
from models.errors import ConfigError

RECENT_MAX = 64  # the last n events are bits of one uint64

#: Fields of an entity's row that belong to its episode. `episode_events` 0 = none open.
FIELDS = (
    ("recent", "<u8", ()),
    ("episode_offset", "<i8", ()),
    ("episode_time_us", "<i8", ()),
    ("episode_partition", "<i4", ()),
    ("episode_row", "<i4", ()),
    ("episode_events", "<u4", ()),
    ("episode_peak", "<f4", ()),
    ("calm", "<u4", ()),
)

#: What names an event to the judge.
EVENT = np.dtype(
    [
        ("offset", "<i8"),
        ("event_time_us", "<i8"),
        ("partition", "<i4"),
        ("row", "<i4"),
    ]
)

WARMING, NORMAL, ANOMALOUS = 0, 1, 2
VERDICTS = ("warming", "normal", "anomalous")


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When an episode opens and closes; rarities are "once in N events of this entity"."""

    #: A score at least this rare counts towards opening.
    once_in: float = 70.0
    #: Of the last `n` events ...
    n: int = 5
    #: ... this many must count for an episode to open.
    k: int = 3
    #: A score less rare than this is calm.
    close_once_in: float = 35.0
    #: Calm events in a row that close an episode.
    close_after: int = 10
    #: From this rarity on an alert is critical, below it a warning.
    critical_once_in: float = 1_000.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n <= RECENT_MAX:
            raise ConfigError(
                f"alerts: needs 1 <= k <= n <= {RECENT_MAX}; got k = {self.k}, n = {self.n}"
            )
        if not 1 < self.close_once_in <= self.once_in:
            raise ConfigError(
                "alerts: needs 1 < close_once_in <= once_in; got "
                f"close_once_in = {self.close_once_in:g}, once_in = {self.once_in:g}"
            )
        if self.close_after < 1:
            raise ConfigError(f"alerts: close_after must be at least 1; got {self.close_after}")


class Judge:
    """Applies an alert policy under one artifact's calibration."""

    def __init__(self, policy: AlertPolicy, calibration: Calibration) -> None:
        self._policy = policy
        #: Score from which an event counts towards opening.
        self.threshold = np.float32(calibration.threshold(policy.once_in))
        self._calm_below = np.float32(calibration.threshold(policy.close_once_in))
        self._window = np.uint64((1 << policy.n) - 1)

    def judge(
        self,
        rows: np.ndarray,
        score: np.ndarray,
        warming: np.ndarray,
        event: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Advance the episodes of `rows` in place by one event each.

        Args:
            rows: (B,) records with `FIELDS`.
            score: (B,) float32.
            warming: (B,) bool, entities whose score does not count yet.
            event: (B,) records, `EVENT`, of the events.

        Returns:
            verdict (B,) uint8, opened (B,) bool, closed (B,) bool.
        """
        policy = self._policy
        exceeds = (score >= self.threshold) & ~warming
        rows["recent"] = ((rows["recent"] << np.uint64(1)) | exceeds) & self._window
        is_open = rows["episode_events"] > 0
        opened = ~is_open & (np.bitwise_count(rows["recent"]) >= policy.k)
        rows["calm"] = np.where(score < self._calm_below, rows["calm"] + np.uint32(1), 0)
        closed = is_open & (rows["calm"] >= policy.close_after)
        rows["episode_peak"] = np.where(
            is_open, np.maximum(rows["episode_peak"], score), np.where(opened, score, 0)
        )
        for name in ("partition", "offset", "row"):
            rows[f"episode_{name}"] = np.where(opened, event[name], rows[f"episode_{name}"])
        rows["episode_time_us"] = np.where(opened, event["event_time_us"], rows["episode_time_us"])
        rows["episode_events"] += (is_open | opened).astype(np.uint32)
        rows["calm"][opened] = 0
        verdict = np.where(warming, WARMING, np.where(exceeds, ANOMALOUS, NORMAL))
        return verdict.astype(np.uint8), opened, closed

    def judge_sequence(
        self, row: np.ndarray, score: np.ndarray, exceeds: np.ndarray
    ) -> tuple[int, bool, bool]:
        """Advance the episode of one entity by many events, up to where it opens or closes.

        Args:
            row: (1,) record; all of `FIELDS` but where an episode opened are advanced.
            score: (T,) float32.
            exceeds: (T,) bool, whether a score counts towards opening.

        Returns:
            Number of events that were judged, and whether the last of them opened or closed
            an episode. The events behind it meet another state.
        """
        policy, window = self._policy, int(self._window)
        recent, calm, events = (int(row[n][0]) for n in ("recent", "calm", "episode_events"))
        is_open, opened, closed, judged = events > 0, False, False, 0
        for exceed, is_calm in zip(
            exceeds.tolist(), (score < self._calm_below).tolist(), strict=True
        ):
            judged += 1
            recent = ((recent << 1) | exceed) & window
            calm = calm + 1 if is_calm else 0
            if is_open:
                events += 1
                closed = calm >= policy.close_after
            elif recent.bit_count() >= policy.k:
                opened, events, calm = True, 1, 0
            if opened or closed:
                break
        peak = score[:judged].max() if is_open else score[judged - 1] if opened else np.float32(0)
        row["episode_peak"] = np.maximum(row["episode_peak"], peak) if is_open else peak
        row["recent"], row["calm"], row["episode_events"] = recent, calm, events
        return judged, opened, closed

    def severity(self, once_in: float) -> str:
        """Say "critical" or "warning" of an alert at this rarity."""
        return "critical" if once_in >= self._policy.critical_once_in else "warning"


def close(rows: np.ndarray, closed: np.ndarray) -> None:
    """Clear the episodes of `rows` where `closed` (B,) bool, after they have been reported."""
    for name in ("recent", "episode_events", "calm"):
        rows[name][closed] = 0
