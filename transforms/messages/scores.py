"""Scores as Kafka messages: an Arrow stream of a block, or one JSON object per event.

A stream that is larger than its topic takes is split on its way to the topic, and blocks may be
cut differently after a restore. So a score is identified by its event and its model, never by its
message: (topic, partition, offset, row, model digest).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamgauge.models.blocks.scored_block import VERDICTS, ScoredBlock
from streamgauge.models.events.arrow_framing import STREAM_MAGIC
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

SCHEMA = pa.schema(
    [
        ("entity_id", pa.string()),
        ("event_time_us", pa.int64()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("row", pa.int32()),
        ("score", pa.float32()),
        ("rarity_1_in_n", pa.float32()),
        ("verdict", pa.dictionary(pa.int8(), pa.string())),
        ("confidence", pa.float32()),
    ]
)
#: As confluent-kafka returns them.
Headers = Iterable[tuple[str, bytes | None]]
#: The columns that identify an event of a topic.
EVENT_KEY = ("partition", "offset", "row")
#: A score as bits, for exact comparison: NaN equals itself, and 0 differs from -0.
SCORE_BITS = np.dtype(
    [
        ("partition", "<i4"),
        ("offset", "<i8"),
        ("row", "<i4"),
        ("event_time_us", "<i8"),
        ("score", "<u4"),
        ("rarity_1_in_n", "<u4"),
        ("verdict", "u1"),
    ]
)
TOPIC_HEADER, MODEL_HEADER = "streamgauge_topic", "streamgauge_model"
CONTENT_TYPES = {"arrow": b"application/vnd.apache.arrow.stream", "json": b"application/json"}

_VERDICTS = pa.array(VERDICTS, pa.string())
_VERDICT_CODES = {name: code for code, name in enumerate(VERDICTS)}
_UNKNOWN_VERDICT = 255
_JSON = msgspec.json.Encoder()


class JsonScore(msgspec.Struct):
    """The score of one event as JSON; fields of later versions are ignored."""

    entity_id: str
    event_time_us: int
    partition: int
    offset: int
    row: int
    score: float
    rarity_1_in_n: float
    verdict: str
    confidence: float | None = None


def encode_scores(topic: str, digest: str, scored: ScoredBlock, form: str) -> Iterator[bytes]:
    """Elements for the score topic with the scores of a block.

    Args:
        topic: the telemetry topic.
        digest: the artifact's.
        scored: the block, not empty.
        form: "arrow", one message; or "json", one message per event.
    """
    messages = _arrow_messages if form == "arrow" else _json_messages
    headers = [
        ("content-type", CONTENT_TYPES[form]),
        (TOPIC_HEADER, topic.encode()),
        (MODEL_HEADER, digest.encode()),
    ]
    yield encode_outgoing(*messages(scored, headers))


def score_batch(scored: ScoredBlock) -> pa.RecordBatch:
    """The scores of a block as a record batch of `SCHEMA`."""
    block = scored.block
    verdict = pa.DictionaryArray.from_arrays(scored.verdict.astype(np.int8), _VERDICTS)
    return pa.RecordBatch.from_arrays(
        [
            block.entity_id,
            pa.array(block.event_time_us),
            pa.array(np.full(len(block), block.partition, np.int32)),
            pa.array(block.offset),
            pa.array(block.row),
            pa.array(scored.score),
            pa.array(scored.rarity_1_in_n),
            verdict,
            pa.array(scored.confidence),
        ],
        schema=SCHEMA,
    )


def is_of(headers: Headers, topic: str, digest: str) -> bool:
    """Whether a score message is about `topic` and was scored by the artifact `digest`."""
    return {(TOPIC_HEADER, topic.encode()), (MODEL_HEADER, digest.encode())} <= set(headers)


def is_arrow(value: bytes) -> bool:
    """Whether the value of a score message is an Arrow stream; otherwise it is JSON."""
    return value[:4] == STREAM_MAGIC


def split_scores(value: bytes, bytes_max: int) -> list[bytes]:
    """The scores of an Arrow message as messages of at most `bytes_max` each.

    A message with one score is not split, whatever its size.
    """
    with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
        [batch] = reader.read_all().combine_chunks().to_batches()
    return list(_pieces(batch, math.ceil(len(value) / max(1, bytes_max)), bytes_max))


def decode_score_table(values: Iterable[bytes]) -> pa.Table:
    """All scores in the values of Arrow messages, as a table of `SCHEMA`."""
    batches: list[pa.RecordBatch] = []
    for value in values:
        with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
            batches += list(reader)
    return pa.Table.from_batches(batches, SCHEMA)


def decode_arrow_scores(value: bytes) -> tuple[pa.StringArray, npt.NDArray[Any]]:
    """Entities (N,) and `SCORE_BITS` (N,) of the scores in an Arrow message.

    Raises:
        ValueError: the value is not a message of scores.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
            table = pa.Table.from_batches(list(reader), reader.schema)
        table.validate(full=True)
        rows = np.empty(len(table), SCORE_BITS)
        for name in (*EVENT_KEY, "event_time_us"):
            rows[name] = table[name].to_numpy()
        for name in ("score", "rarity_1_in_n"):
            rows[name] = table[name].cast(pa.float32()).to_numpy().view(np.uint32)
        rows["verdict"] = _verdict_codes(table["verdict"])
        return table["entity_id"].combine_chunks().cast(pa.string()), rows
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(str(error)) from error


def decode_json_scores(values: Sequence[bytes]) -> tuple[pa.StringArray, npt.NDArray[Any]]:
    """Entities (N,) and `SCORE_BITS` (N,) of the scores in N JSON messages.

    Raises:
        ValueError: a value is not a score; the error's second argument is its index.
    """
    rows, names = np.empty(len(values), SCORE_BITS), []
    for i, value in enumerate(values):
        try:
            score = msgspec.json.decode(value, type=JsonScore)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error), i) from error
        names.append(score.entity_id)
        bits = np.array([score.score, score.rarity_1_in_n], np.float32).view(np.uint32)
        verdict = _VERDICT_CODES.get(score.verdict, _UNKNOWN_VERDICT)
        event = (score.partition, score.offset, score.row, score.event_time_us)
        rows[i] = (*event, *bits, verdict)
    return pa.array(names, pa.string()), rows


def _arrow_messages(scored: ScoredBlock, headers: list[tuple[str, bytes]]) -> Iterator[Outgoing]:
    key = str(scored.block.partition).encode()
    yield Outgoing(key, _stream(score_batch(scored)), headers)


def _json_messages(scored: ScoredBlock, headers: list[tuple[str, bytes]]) -> Iterator[Outgoing]:
    for event in score_batch(scored).to_pylist():
        yield Outgoing(event["entity_id"].encode(), _JSON.encode(event), headers)


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _pieces(batch: pa.RecordBatch, count: int, bytes_max: int) -> Iterator[bytes]:
    """Streams of about `count` slices of a batch; a slice that is still too large is cut again."""
    rows = math.ceil(len(batch) / min(count, len(batch)))
    for start in range(0, len(batch), rows):
        piece = batch.slice(start, rows)
        value = _stream(piece)
        if len(value) > bytes_max and len(piece) > 1:
            # Entities with long names may be side by side.
            yield from _pieces(piece, 2, bytes_max)
        else:
            yield value


def _verdict_codes(verdict: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Indices into `VERDICTS`; `_UNKNOWN_VERDICT` for any other text and for null."""
    encoded = verdict.combine_chunks().cast(pa.string()).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = [_VERDICT_CODES.get(name, _UNKNOWN_VERDICT) for name in names]
    indices: npt.NDArray[np.int32] = encoded.indices.to_numpy()
    return np.array([*codes, _UNKNOWN_VERDICT], np.uint8)[indices]
