"""The bundled artifact gives the bundled telemetry the scores and alerts it always gave."""

import hashlib
import json

import msgspec
import numpy as np
import pytest

from fixtures.paths import GOLDEN
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.data.datasets import load
from streamgauge.pipeline.replay.demo import BUNDLED
from streamgauge.transforms.sources.archive import blocks_in_time_order

DIGESTS = GOLDEN / "scores.json"
COLUMNS = ("score", "rarity_1_in_n", "verdict", "confidence", "loss")


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def digests():
    """SHA-256 of every column of scores, and of all alerts, of 94,813 events."""
    artifact = artifacts.load(BUNDLED / "artifact")
    scorer = Scorer(artifact, ScoringPolicy(), AlertPolicy())
    table = EntityTable(scorer.layout)
    sample = load(BUNDLED / "sample", "test")
    scored = [scorer.step(table, block) for block in blocks_in_time_order(sample.series)]
    columns = {name: np.concatenate([getattr(s, name) for s in scored]) for name in COLUMNS}
    transitions = [transition for s in scored for transition in s.transitions]
    return {name: digest(column.tobytes()) for name, column in columns.items()} | {
        "alerts": digest(msgspec.json.encode(transitions, order="deterministic"))
    }


def test_no_bit_of_a_score_or_an_alert_has_changed(digests):
    """If this fails, the arithmetic has changed: say so in CHANGELOG.md, then record it again."""
    assert digests == json.loads(DIGESTS.read_text())
