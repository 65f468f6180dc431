"""Measures the detection quality of the peers on the server machines, mean over entities.

Each detector processes the train part and then scores the test part, learning continuously.
All features are scaled to 0 to 1 by the train part; constant features are not removed.
Streamgauge's figures are those of `make quality`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from bench.environments import PEERS, prepare
from streamgauge.pipeline.data.datasets import Dataset, load
from streamgauge.pipeline.evaluation.metrics import mean, ranking

SECONDS_MAX = 900.0


def measure(data: Path, environments: Path, own: Path) -> dict[str, Any]:
    """AUC-PR, VUS-PR and best F1 of each detector; or the reason why there is none."""
    train, test = load(data, "train"), load(data, "test")
    rcf, hst = prepare("rcf", environments), prepare("hst", environments)
    commands = {
        "Random Cut Forest (Java)": ["java", "-cp", f"{rcf}/classes:{rcf}/jars/*", "Offline"],
        "River HalfSpaceTrees": [str(hst / "bin" / "python"), str(PEERS / "hst" / "offline.py")],
    }
    found: dict[str, Any] = {name: _judged(one, train, test) for name, one in commands.items()}
    if own.exists():
        figures = json.loads(own.read_text())["mean"]
        found["streamgauge"] = {name: figures[name] for name in ("auc_pr", "vus_pr", "best_f1")}
    else:
        found["streamgauge"] = {"reason": "run `make quality` first"}
    return found


def _judged(command: list[str], train: Dataset, test: Dataset) -> dict[str, Any]:
    rankings = []
    before = {series.entity_id: series.values for series in train.series}
    for series in test.series:
        past = before[series.entity_id]
        low, width = past.min(axis=0), np.ptp(past, axis=0)
        rows = (np.vstack([past, series.values]) - low) / np.where(width > 0, width, 1)
        score = _scores(command, np.clip(rows, 0, 1) if "offline.py" in command[-1] else rows)
        assert series.labels is not None
        rankings.append(ranking(score[len(past) :], series.labels))
    return {
        name: round(mean([getattr(one, name) for one in rankings]) or 0.0, 3)
        for name in ("auc_pr", "vus_pr", "best_f1")
    }


def _scores(command: list[str], rows: np.ndarray) -> np.ndarray:
    ran = subprocess.run(
        [*command, str(rows.shape[1])],
        input=rows.astype(">f4").tobytes(),
        capture_output=True,
        timeout=SECONDS_MAX,
        check=True,
    )
    return np.array(ran.stdout.split(), np.float64)
