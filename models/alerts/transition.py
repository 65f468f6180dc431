"""Builds the record of an alert that opens, is updated or closes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts.calibration import Calibration
from streamgauge.models.alerts.decision import AlertAction
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import BACK_TO_NORMAL, NEW_NORMAL, Transition
from streamgauge.models.state.entity_row import Record


class EventScore(NamedTuple):
    """The score of an event, and what explains it."""

    score: float
    #: (F,) float32 each, as in `models.kernel.buffers.Scratch`.
    parts: NDArray[Any]
    expected: NDArray[Any]


_Features = list[tuple[str, float | None, float, float]]


class TransitionBuilder:
    """Builds transitions under one calibration and one policy.

    Args:
        names: the features, in order.
        calibration: turns scores into rarities.
        policy: decides the severity.
    """

    #: Features named in an alert.
    TOP_FEATURES = 5

    def __init__(self, names: Sequence[str], calibration: Calibration, policy: AlertPolicy) -> None:
        self._names = names
        self._calibration = calibration
        self._critical_rarity_1_in_n = policy.critical_rarity_1_in_n

    def build(
        self,
        block: Block,
        event: int,
        row: Record,
        *,
        scored: EventScore,
        action: AlertAction,
        log_threshold: float,
    ) -> Transition:
        """Return the transition at one event.

        Args:
            block: holds the event.
            event: index of the event in the block.
            row: record of the entity after the event, before `decision.complete`.
            scored: of the event.
            action: what the event does to the alert.
            log_threshold: the threshold that the log score had to exceed for a message.
        """
        rarity_1_in_n, peak_rarity = self._calibration.rarity_1_in_n(
            np.array([scored.score, row["alert_peak"]], np.float32)
        ).tolist()
        return Transition(
            status=_status(action),
            entity_id=block.entity_id[event].as_py(),
            partition=block.partition,
            offset=int(block.offset[event]),
            row=int(block.row[event]),
            event_time_us=int(block.event_time_us[event]),
            score=scored.score,
            rarity_1_in_n=rarity_1_in_n,
            threshold=math.exp(log_threshold),
            severity="critical" if peak_rarity >= self._critical_rarity_1_in_n else "warning",
            opened_partition=int(row["alert_partition"]),
            opened_offset=int(row["alert_offset"]),
            opened_row=int(row["alert_row"]),
            opened_time_us=int(row["alert_time_us"]),
            events=int(row["alert_events"]),
            peak=float(row["alert_peak"]),
            features=self._explain(block.features[event], row, scored, action),
            reason=_reason(action),
        )

    def _explain(
        self, value: NDArray[Any], row: Record, scored: EventScore, action: AlertAction
    ) -> _Features:
        """Return the features that explain a transition, largest share first."""
        if not action & AlertAction.BASELINE_ACCEPTED:
            return self._top(value, scored.expected, scored.parts)
        # A new baseline is explained by the distance of each feature from its old mean.
        with np.errstate(over="ignore"):
            distance = np.square((value - row["mean"]) / np.sqrt(row["var"]))
        # An infinite distance would leave a share of 0 to all other features.
        share = np.minimum(np.nan_to_num(distance, nan=0.0), np.float32(1e30))
        return self._top(value, row["mean"], share)

    def _top(self, value: NDArray[Any], expected: NDArray[Any], share: NDArray[Any]) -> _Features:
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


def _status(action: AlertAction) -> str:
    if action & AlertAction.CLOSED:
        return "closed"
    return "opened" if action & AlertAction.OPENED else "updated"


def _reason(action: AlertAction) -> str | None:
    if not action & AlertAction.CLOSED:
        return None
    return NEW_NORMAL if action & AlertAction.BASELINE_ACCEPTED else BACK_TO_NORMAL
