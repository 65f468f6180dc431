"""Quix Streams: one function per event with state per key in RocksDB.

With `--durable-s` the changelog topic of the state is on and offsets are committed at that
interval, at least once. Without it, state is in RocksDB only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gru import Gru
from quixstreams import Application, State
from task import given


def main() -> None:
    """Build the dataframe and run it."""
    task = given()
    gru = Gru.load(task.weights)
    fresh = bytes(4 * gru.hidden)

    def score(event: dict[str, Any], state: State) -> dict[str, Any]:
        hidden = np.frombuffer(state.get_bytes("hidden", fresh), np.float32)[None]
        x = np.array([event["features"]], np.float32)
        found, after = gru.step(x, hidden)
        state.set_bytes("hidden", after.tobytes())
        time_us = event["event_time_us"]
        return {"entity_id": event["entity_id"], "event_time_us": time_us, "score": float(found[0])}

    app = Application(
        broker_address=task.servers,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        state_dir=task.work / "state",
        commit_interval=task.durable_s or 5.0,
        use_changelog_topics=bool(task.durable_s),
        loglevel="WARNING",
    )
    source = app.topic(task.topic, key_deserializer="str", value_deserializer="json")
    sink = app.topic(task.out, key_serializer="str", value_serializer="json")
    app.dataframe(source).apply(score, stateful=True).to_topic(sink)
    app.run()


if __name__ == "__main__":
    main()
