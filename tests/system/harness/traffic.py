"""Steady telemetry while faults happen: 1,000 entities, sent by a thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaError, Producer

from fixtures.deadlines import deadline
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.pipeline.data.payloads import Payload, Selection, messages
from system.harness import fleet

EVENTS_PER_S = 1_500.0
OUTAGE_S_MAX = 240  # how long the sender retries while the broker is down
_FLUSH_S_MAX = 120.0
_PACE_S = 0.02
_END_S_MAX = 10.0
ROWS_PER_TURN = 5  # 5,000 events; then the format changes


class Traffic:
    """Sends until `end`, and records what the broker acknowledged, per partition."""

    def __init__(self, cluster: ClusterInfo, topic: str, partitions: int) -> None:
        self._topic, self._partitions = topic, partitions
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": OUTAGE_S_MAX * 1000,
                "log_level": 2,
            }
        )
        self._ending, self._flowing = threading.Event(), threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._send, name="traffic", daemon=True)
        self._ends: dict[int, int] = {}
        #: Events sent so far, malformed ones among them.
        self.events = 0
        self.refused: list[str] = []

    def ends(self) -> dict[int, int]:
        """Return, per partition, the offset after the last acknowledged message."""
        return dict(self._ends)

    def start(self) -> None:
        """Begin to send."""
        self._flowing.set()
        self._thread.start()

    def pause(self) -> None:
        """Send nothing until `resume`; the broker has everything that was sent before."""
        self._flowing.clear()
        self._settle()

    def resume(self) -> None:
        """Resume after `pause`."""
        self._flowing.set()

    def end(self) -> None:
        """Send no more, and wait until the broker has everything."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._flowing.set()
        self._thread.join(deadline(_END_S_MAX))
        self._settle()

    def _settle(self) -> None:
        """Wait until the broker has every message that was sent."""
        with self._sending:
            left = self._producer.flush(deadline(_FLUSH_S_MAX))
        assert not left and not self.refused, f"{left} messages unsent; {self.refused[:3]}"

    def _send(self) -> None:
        due, waiter = 0.0, threading.Event()
        for message in self._messages():
            due += message.events / EVENTS_PER_S
            if due > _PACE_S:  # many short waits would cost more CPU than they save
                self._producer.poll(0)
                waiter.wait(due)
                due = 0.0
            if not self._sent(message):
                return

    def _sent(self, message: Payload) -> bool:
        """Send a message, after a pause if there is one; False when it is time to end."""
        while True:
            self._flowing.wait()
            if self._ending.is_set():
                return False
            with self._sending:
                if self._flowing.is_set():  # not paused since
                    self._produce(message)
                    self.events += message.events
                    return True

    def _produce(self, message: Payload) -> None:
        partition, key, value, headers = message[:4]
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, partition, self._delivered, headers=headers
                )
                return
            except BufferError:  # the broker has been down for long: wait, and drop nothing
                self._producer.poll(0.1)

    def _messages(self) -> Iterator[Payload]:
        for turn in itertools.count():
            part = fleet.fleet(turn * ROWS_PER_TURN, ROWS_PER_TURN)
            selection = Selection(fleet.REPLICAS, None, fleet.MALFORMED_SHARE, turn)
            data_format = "json" if turn % 2 == 0 else "arrow"
            yield from messages(part, data_format, self._partitions, selection=selection)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.refused.append(error.str())
            return
        self._ends[message.partition()] = message.offset() + 1
