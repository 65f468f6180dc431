"""Counters: the steps register exactly those that are listed."""

import pytest
from apache_beam.metrics.metric import Metrics

from fixtures.artifacts import make_artifact
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import from_dict
from streamgauge.transforms import metrics
from streamgauge.transforms.messages.alerts import FormatAlerts
from streamgauge.transforms.score import ScoreBlocks
from streamgauge.transforms.sinks.files import WritePart
from streamgauge.transforms.sinks.topic import Produce
from streamgauge.transforms.sources.archive import ReadArchive
from streamgauge.transforms.sources.keep_alive import KeepAlive
from streamgauge.transforms.sources.live import DiscoverPartitions, PollPartitions
from streamgauge.transforms.sources.replay import ReadRanges


def test_the_steps_register_exactly_the_listed_counters(tmp_path, monkeypatch):
    directory = make_artifact(tmp_path / "a")
    artifact, config = artifacts.load(directory), from_dict({"artifact": str(directory)})
    registered, original = [], Metrics.counter

    def counter(namespace, name):
        registered.append((namespace, name))
        return original(namespace, name)

    monkeypatch.setattr(Metrics, "counter", staticmethod(counter))
    source, kafka = graph.source(config, artifact), graph.access(config)
    polling = graph.live_reading(config, artifact)._polling
    spec = graph.scoring(config, artifact, graph.live_state(config), is_live=True)._spec
    KeepAlive(), ReadArchive(), ReadRanges(source)
    DiscoverPartitions(source, polling), PollPartitions(source, polling)
    ScoreBlocks(spec), FormatAlerts("topic", "digest")
    Produce(kafka, "topic"), WritePart("directory", "kind")
    assert sorted(registered) == sorted((metrics.NAMESPACE, name) for name in metrics.COUNTERS)


def test_an_unlisted_counter_is_refused():
    with pytest.raises(KeyError, match="'surprises' must be listed"):
        metrics.counter("surprises")
