"""What is said when an alert opens, is told again, or closes."""

from __future__ import annotations

import numpy as np

from models.alerting import Ruling
from models.artifact import Artifact
from models.block import Block
from models.judge import Judge
from models.kernel import TileScores
from models.scored import BACK_TO_NORMAL, NEW_NORMAL, Transition

_Features = list[tuple[str, float | None, float, float]]


class Teller:
    """Puts transitions together under one artifact."""

    #: Features named in an alert.
    TOP_FEATURES = 5

    def __init__(self, artifact: Artifact, judge: Judge) -> None:
        self._names = artifact.schema.names
        self._calibration = artifact.calibration
        self._judge = judge

    def tell(
        self, block: Block, event: int, row: np.ndarray, result: TileScores, ruling: Ruling, at: int
    ) -> Transition:
        """The transition at one event.

        Args:
            block: holds the event.
            event: its place in the block.
            row: the entity's record behind it, before its alert is cleared.
            result: scores of a tile or a sequence.
            ruling: on the same events.
            at: the event's place in both.
        """
        once_in, peak_once_in = self._calibration.once_in(
            np.array([result.score[at], row["episode_peak"]], np.float32)
        ).tolist()
        is_new_normal, value = bool(ruling.renewed[at]), block.features[event]
        return Transition(
            status=_status(ruling, at),
            entity_id=block.entity_id[event].as_py(),
            partition=block.partition,
            offset=int(block.offset[event]),
            row=int(block.row[event]),
            event_time_us=int(block.event_time_us[event]),
            score=float(result.score[at]),
            once_in=once_in,
            threshold=float(ruling.threshold[at]),
            severity=self._judge.severity(peak_once_in),
            opened_partition=int(row["episode_partition"]),
            opened_offset=int(row["episode_offset"]),
            opened_row=int(row["episode_row"]),
            opened_time_us=int(row["episode_time_us"]),
            events=int(row["episode_events"]),
            peak=float(row["episode_peak"]),
            features=self._moved(row, value) if is_new_normal else self._odd(result, at, value),
            reason=_reason(ruling, at),
        )

    def _odd(self, result: TileScores, at: int, value: np.ndarray) -> _Features:
        """Features with most of the event's score, and what was expected of them."""
        return self._top(value, result.expected[at], result.contribution[at])

    def _moved(self, row: np.ndarray, value: np.ndarray) -> _Features:
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


def _status(ruling: Ruling, at: int) -> str:
    if ruling.closed[at]:
        return "closed"
    return "opened" if ruling.opened[at] else "updated"


def _reason(ruling: Ruling, at: int) -> str | None:
    if not ruling.closed[at]:
        return None
    return NEW_NORMAL if ruling.renewed[at] else BACK_TO_NORMAL
