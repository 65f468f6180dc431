"""Runs the graph over a bounded range into files, and gathers what came out.

In process the runner is `FnApiRunner`, named: `DirectRunner` may pick another one. On
Flink it is streaming execution of the same bounded source; batch execution does not
keep the order inside a key.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.typehints import with_output_types

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.transforms.messages import scores
from streamgauge.transforms.messages.cloudevents import decode_data
from streamgauge.transforms.messages.dead_letters import decode_dead_letter
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing
from streamgauge.transforms.score import SnapshotSettings
from streamgauge.transforms.sinks import files

#: Called with a kind of `transforms.sinks.files` and a message on its way to the files.
Listener = Callable[[str, Outgoing], None]

# Who is told. A step travels to its worker as bytes and cannot carry a function of this
# call; in one process the module is the same.
_listeners: list[Listener] = []


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """Everything a replay said, each thing once, in the order of the log."""

    #: Columns of `transforms.messages.scores.SCHEMA`, sorted by partition, offset, row.
    scores: pa.Table
    #: Alert records as in the alert topic, sorted by event time.
    alerts: list[dict[str, Any]]
    #: Dead letters: their headers as a dictionary, and the payload's beginning as text.
    dead_letters: list[dict[str, Any]]
    #: Drift reports as in the drift topic.
    drift: list[dict[str, Any]]


def run_in_process(
    config: Config,
    artifact: Artifact,
    reading: beam.PTransform,
    directory: Path,
    listener: Listener | None = None,
    state: SnapshotSettings | None = None,
) -> Replay:
    """Replay through the graph in this process.

    Args:
        config: as for a live job; its topics are read from, never written to.
        artifact: loaded from `config.artifact`.
        reading: a bounded source.
        directory: scratch for the parts; made anew.
        listener: hears every alert and every message of scores as it is written.
        state: what shards start from, and where they leave their memory in the end.
    """
    _make_anew(directory)
    plain = graph.file_sinks(str(directory))
    assert plain.scores is not None
    sinks = dataclasses.replace(
        plain,
        alerts=Tap(plain.alerts, files.ALERTS),
        scores=Tap(plain.scores, files.SCORES),
    )
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))
    kept = state or graph.replay_state(config)
    graph.build(pipeline, config, artifact, reading=reading, sinks=sinks, state=kept, is_live=False)
    heard = [listener] if listener else []
    _listeners.extend(heard)
    try:
        pipeline.run().wait_until_finish()
    finally:
        for one in heard:
            _listeners.remove(one)
    return gather(directory)


class Tap(beam.PTransform):
    """A sink whose messages the listeners of this process hear, too."""

    def __init__(self, sink: beam.PTransform, kind: str) -> None:
        super().__init__()
        self._sink = sink
        self._kind = kind

    def expand(self, messages: Any) -> Any:
        """Put the listening step before the sink."""
        return messages | "Tap" >> beam.ParDo(_Publish(self._kind)) | "Write" >> self._sink


@with_output_types(bytes)
class _Publish(beam.DoFn):
    """Tells the listeners and passes the message on."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def process(self, element: bytes) -> Iterator[bytes]:
        """Tell, then pass on."""
        for message in decode_outgoing(element) if _listeners else ():
            for listener in _listeners:
                listener(self._kind, message)
        yield element


def run_on_flink(
    config: Config,
    artifact: Artifact,
    reading: beam.PTransform,
    directory: Path,
    options: PipelineOptions,
    state: SnapshotSettings | None = None,
) -> Replay:
    """Replay through the graph on a Flink cluster that shares this machine's files."""
    _make_anew(directory)
    pipeline = beam.Pipeline(options=options)
    sinks = graph.file_sinks(str(directory))
    kept = state or graph.replay_state(config)
    graph.build(pipeline, config, artifact, reading=reading, sinks=sinks, state=kept, is_live=False)
    pipeline.run().wait_until_finish()
    return gather(directory)


def gather(directory: Path) -> Replay:
    """Put the parts together: repeats dropped by id, everything in a fixed order."""
    return Replay(
        _scores(directory),
        sorted(_records(directory, files.ALERTS), key=lambda a: (a["event"]["time_us"], a["id"])),
        _dead_letters(directory),
        sorted(_records(directory, files.DRIFT), key=lambda d: d["id"]),
    )


def _scores(directory: Path) -> pa.Table:
    values = (message.value for message in _messages(directory, files.SCORES))
    table = scores.decode_score_table(values).combine_chunks().unify_dictionaries()
    order = scores.EVENT_KEY
    table = table.sort_by([(name, "ascending") for name in order])
    return _first_of_each(table, order)


def _first_of_each(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """Rows of a table sorted by `key` whose key differs from the row before."""
    if table.num_rows < 2:
        return table
    changed = [table.column(name).to_numpy() for name in key]
    new = [True, *(sum(c[1:] != c[:-1] for c in changed) > 0).tolist()]
    return table.filter(pa.array(new))


def _records(directory: Path, kind: str) -> list[dict[str, Any]]:
    """JSON values of a kind, once per id."""
    found = {}
    for message in _messages(directory, kind):
        record = decode_data(message.value)
        found[record["id"]] = record
    return list(found.values())


def _dead_letters(directory: Path) -> list[dict[str, Any]]:
    found = {}
    for message in _messages(directory, files.DEAD_LETTERS):
        about = decode_dead_letter(message.headers)
        about["payload"] = message.value.decode(errors="backslashreplace")
        found[about["id"]] = about
    return sorted(found.values(), key=lambda d: (d["partition"], d["offset"], d["row"]))


def _messages(directory: Path, kind: str) -> Iterator[Outgoing]:
    return chain.from_iterable(map(decode_outgoing, files.read_parts(directory, kind)))


def _make_anew(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
