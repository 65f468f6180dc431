"""Scores as Kafka messages: one Arrow stream per block, or one JSON object per event.

Blocks may be cut anew after a restore, so a score is identified by its event and its
model, never by the message it came in: (topic, partition, offset, row, model digest).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa

from streamgauge.models.blocks.scored_block import VERDICTS, ScoredBlock
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

#: Headers of a message: the topic of the events, and the digest of the model.
TOPIC_HEADER, MODEL_HEADER = "streamgauge_topic", "streamgauge_model"

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
_VERDICTS = pa.array(VERDICTS, pa.string())
_JSON = msgspec.json.Encoder()


def encode_scores(topic: str, digest: str, scored: ScoredBlock, form: str) -> Iterator[bytes]:
    """Messages with the scores of a block; `form` is "arrow" or "json"."""
    batch = score_batch(scored)
    about = [(TOPIC_HEADER, topic.encode()), (MODEL_HEADER, digest.encode())]
    newest_ms = int(scored.block.event_time_us.max()) // 1000
    if form == "arrow":
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(batch)
        value = sink.getvalue().to_pybytes()
        headers = [("content-type", b"application/vnd.apache.arrow.stream"), *about]
        key = str(scored.block.partition).encode()
        yield encode_outgoing(Outgoing(key, value, headers, newest_ms))
        return
    headers = [("content-type", b"application/json"), *about]
    every = (
        Outgoing(
            event["entity_id"].encode(),
            _JSON.encode(event),
            headers,
            event["event_time_us"] // 1000,
        )
        for event in batch.to_pylist()
    )
    yield encode_outgoing(*every)


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
