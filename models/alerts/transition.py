"""What is said when an alert opens, is told again, or closes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from streamgauge.models.alerts.policy import BASELINE_ACCEPTED, CLOSED, OPENED, AlertPolicy
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import BACK_TO_NORMAL, NEW_NORMAL, Transition
from streamgauge.models.state.entity_row import Record


class EventScore(NamedTuple):
    """What the kernel said of an event."""

    score: float
    #: (F,) float32 each, as in `models.workspace.Scratch`.
    parts: np.ndarray
    expected: np.ndarray


_Features = list[tuple[str, float | None, float, float]]


class TransitionBuilder:
    """Puts transitions together under one artifact."""

    #: Features named in an alert.
    TOP_FEATURES = 5

    def __init__(self, artifact: Artifact, policy: AlertPolicy) -> None:
        self._names = artifact.schema.names
        self._calibration = artifact.calibration
        self._critical_once_in = policy.critical_rarity_1_in_n

    def tell(
        self,
        block: Block,
        event: int,
        row: Record,
        said: EventScore,
        told: int,
        log_threshold: float,
    ) -> Transition:
        """The transition at one event.

        Args:
            block: holds the event.
            event: its place in the block.
            row: the entity's record behind it, before its alert is cleared.
            said: of the event.
            told: bits, see `models.alerts.policy`.
            log_threshold: what its log score had to pass for a message.
        """
        rarity_1_in_n, peak_rarity = self._calibration.rarity_1_in_n(
            np.array([said.score, row["alert_peak"]], np.float32)
        ).tolist()
        value, is_new_normal = block.features[event], bool(told & BASELINE_ACCEPTED)
        return Transition(
            status=_status(told),
            entity_id=block.entity_id[event].as_py(),
            partition=block.partition,
            offset=int(block.offset[event]),
            row=int(block.row[event]),
            event_time_us=int(block.event_time_us[event]),
            score=said.score,
            rarity_1_in_n=rarity_1_in_n,
            threshold=math.exp(log_threshold),
            severity="critical" if peak_rarity >= self._critical_once_in else "warning",
            opened_partition=int(row["alert_partition"]),
            opened_offset=int(row["alert_offset"]),
            opened_row=int(row["alert_row"]),
            opened_time_us=int(row["alert_time_us"]),
            events=int(row["alert_events"]),
            peak=float(row["alert_peak"]),
            features=self._moved(row, value)
            if is_new_normal
            else self._top(value, said.expected, said.parts),
            reason=_reason(told),
        )

    def _moved(self, row: Record, value: np.ndarray) -> _Features:
        """Features that are farthest from their mean up to now, and that mean."""
        with np.errstate(over="ignore"):
            distance = np.square((value - row["mean"]) / np.sqrt(row["var"]))
        # A distance without end would leave no share to any other.
        share = np.minimum(np.nan_to_num(distance, nan=0.0), np.float32(1e30))
        return self._top(value, row["mean"], share)

    def _top(self, value: np.ndarray, expected: np.ndarray, share: np.ndarray) -> _Features:
        top = np.argsort(-share, kind="stable")[: self.TOP_FEATURES]
        total = float(share.sum()) or 1.0
        return [
            (
                self._names[i],
                None if np.isnan(value[i]) else float(value[i]),
                float(expected[i]),
                float(share[i]) / total,
            )
            for i in top.tolist()
        ]


def _status(told: int) -> str:
    if told & CLOSED:
        return "closed"
    return "opened" if told & OPENED else "updated"


def _reason(told: int) -> str | None:
    if not told & CLOSED:
        return None
    return NEW_NORMAL if told & BASELINE_ACCEPTED else BACK_TO_NORMAL
