"""Runs the graph over a bounded range into files, and reads the files back.

In process the runner is `FnApiRunner`, named explicitly: `DirectRunner` may choose another
one. On Flink the bounded source runs in streaming execution, because batch execution does
not keep the order inside a key.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.replay.tap import Listener, Tap, listening
from streamgauge.transforms.messages import scores
from streamgauge.transforms.messages.cloudevents import decode_data
from streamgauge.transforms.messages.dead_letters import decode_dead_letter
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing
from streamgauge.transforms.score import SnapshotSettings
from streamgauge.transforms.sinks import files

COPY = "messages.copy"


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """The output of a replay: every message once, in a fixed order."""

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
    reading: beam.PTransform[Any, Any],
    *,
    directory: Path,
    listener: Listener | None = None,
    snapshots: SnapshotSettings | None = None,
) -> Replay:
    """Replay through the graph in this process.

    Args:
        config: as for a live job; its topics are read, never written.
        artifact: loaded from `config.artifact`.
        reading: a bounded source.
        directory: folder for the part files; emptied first.
        listener: called with every alert and every message of scores while the replay runs.
        snapshots: the state that shards start from, and the folder for their final state;
            None for neither.
    """
    _make_empty(directory)
    sinks = graph.file_sinks(str(directory))
    if listener is None:
        _run(config, artifact, reading, sinks=sinks, snapshots=snapshots)
        return gather(directory)
    copy = directory / COPY
    assert sinks.scores is not None
    tapped = dataclasses.replace(
        sinks,
        alerts=Tap(sinks.alerts, files.ALERTS, copy),
        scores=Tap(sinks.scores, files.SCORES, copy),
    )
    with listening(copy, listener):
        _run(config, artifact, reading, sinks=tapped, snapshots=snapshots)
    return gather(directory)


def run_on_flink(
    config: Config,
    artifact: Artifact,
    reading: beam.PTransform[Any, Any],
    *,
    directory: Path,
    options: PipelineOptions,
    snapshots: SnapshotSettings | None = None,
) -> Replay:
    """Replay through the graph on a Flink cluster; see `run_in_process`.

    Args:
        config: as for a live job.
        artifact: loaded from `config.artifact`.
        reading: a bounded source.
        directory: folder for the part files that workers and this process reach.
        options: name the cluster.
        snapshots: as in `run_in_process`.
    """
    _make_empty(directory)
    sinks = graph.file_sinks(str(directory))
    _run(config, artifact, reading, sinks=sinks, snapshots=snapshots, options=options)
    return gather(directory)


def _run(
    config: Config,
    artifact: Artifact,
    reading: beam.PTransform[Any, Any],
    *,
    sinks: graph.Sinks,
    snapshots: SnapshotSettings | None,
    options: PipelineOptions | None = None,
) -> None:
    """Build the graph and run it to its end: in this process, or where `options` say."""
    if options is None:
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))
    else:
        pipeline = beam.Pipeline(options=options)
    state = snapshots or graph.replay_state(config)
    graph.build(
        pipeline, config, artifact, reading=reading, sinks=sinks, state=state, is_live=False
    )
    pipeline.run().wait_until_finish()


def gather(directory: Path) -> Replay:
    """Read the part files: each message once by its id, everything in a fixed order."""
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
    records = {}
    for message in _messages(directory, kind):
        record = decode_data(message.value)
        records[record["id"]] = record
    return list(records.values())


def _dead_letters(directory: Path) -> list[dict[str, Any]]:
    letters = {}
    for message in _messages(directory, files.DEAD_LETTERS):
        about = decode_dead_letter(message.headers)
        about["payload"] = message.value.decode(errors="backslashreplace")
        letters[about["id"]] = about
    return sorted(letters.values(), key=lambda d: (d["partition"], d["offset"], d["row"]))


def _messages(directory: Path, kind: str) -> Iterator[Outgoing]:
    return chain.from_iterable(map(decode_outgoing, files.read_parts(directory, kind)))


def _make_empty(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
