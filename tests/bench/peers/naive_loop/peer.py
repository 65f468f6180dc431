"""The loop that a user writes first: kafka-python, json, torch one event at a time.

It uses the `crc32c` package; without it kafka-python checks its records in pure Python.
Hidden vectors live in a dict and are lost with the process; offsets are committed as the
client does by default, every five seconds.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from kafka import KafkaConsumer, KafkaProducer
from task import given


def load(path: str) -> tuple[torch.nn.GRUCell, torch.nn.Linear]:
    """Cell and head with the weights of the benchmark."""
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    features, hidden = arrays["head_weight"].shape
    cell, head = torch.nn.GRUCell(features, hidden), torch.nn.Linear(hidden, features)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cell.load_state_dict({name: arrays[name] for name in names})
    head.load_state_dict({"weight": arrays["head_weight"], "bias": arrays["head_bias"]})
    return cell, head


def main() -> None:
    """Read, score and write until it is stopped."""
    task = given()
    torch.set_num_threads(1)
    cell, head = load(str(task.weights))
    consumer = KafkaConsumer(
        task.topic,
        bootstrap_servers=task.servers,
        group_id=task.group,
        auto_offset_reset="earliest",
        value_deserializer=json.loads,
    )
    producer = KafkaProducer(bootstrap_servers=task.servers, linger_ms=5)
    hidden: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for message in consumer:
            event = message.value
            name = event["entity_id"]
            x = torch.tensor(event["features"])[None]  # (1, F)
            before = hidden.get(name)
            if before is None:
                before = torch.zeros(1, cell.hidden_size)
            error = x - head(before)
            hidden[name] = cell(x, before)
            score = {
                "entity_id": name,
                "event_time_us": event["event_time_us"],
                "score": (error * error).mean().item(),
            }
            producer.send(task.out, json.dumps(score).encode(), message.key)


if __name__ == "__main__":
    main()
