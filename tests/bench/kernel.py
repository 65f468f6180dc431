"""Measures the scorer without Kafka and Beam: events/s per core, torch, and each stage.

Blocks of 4,096 distinct entities out of 10,000, 38 features, H = 64. Each figure is the best
of several rounds of process CPU time, because other load can only add to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit

from bench import gate
from bench.load import BASE_US, FEATURES, HIDDEN, Encoder, Load
from bench.peers.gru import Gru
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import Block, decode_block, encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.validation import Message
from streamgauge.models.kernel.buffers import EventGroup, Scratch
from streamgauge.models.kernel.step import _addresses_of, _advance, step_group
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.simd.matmul import LANES, product
from streamgauge.models.state.entity_row import floats, heads
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.transforms.messages.scores import encode_scores

ENTITIES, BLOCK_EVENTS = 10_000, 4_096
TILE = 256  # of the peers' kernel
ROUNDS = 7
TORCH_EVENTS = 2_000


def measure(artifact_directory: Path) -> dict[str, Any]:
    """Events/s per core of scorer, kernel and torch, the ratios, and the profile."""
    artifact = artifacts.load(artifact_directory)
    scorer = Scorer(artifact, ScoringPolicy(entities_per_shard_max=0), AlertPolicy())
    table, blocks = EntityTable(scorer.layout), _blocks()
    for block in blocks:  # admits everyone, and warms caches
        scorer.step(table, block)
    weights = gate.weights_of(artifact)
    micros = {
        "scorer step": _micros(lambda: [scorer.step(table, one) for one in blocks], len(blocks)),
        "kernel": _micros(_kernel(artifact, table), 1),
        "gru alone": _micros(_gru(Gru(weights)), 1),
        "torch single": _torch_single(weights),
    }
    return {
        "what": {
            "scorer step": "Scorer.step: names to rows, waves, kernel, verdicts",
            "kernel": "rows from and to the table, scores, learning; no verdicts",
            "gru alone": "gather, GRU, head, squared error, scatter on the same tiles: "
            "the work of the peers",
            "torch single": "torch GRUCell, Linear, squared error, one event at a time",
        },
        "us_per_event": {name: round(value, 3) for name, value in micros.items()},
        "events_s": {name: round(1e6 / value) for name, value in micros.items()},
        "profile_us_per_event": profile(artifact, scorer, table),
    }


def _blocks() -> list[Block]:
    """Two blocks of distinct entities, as they come out of the decoder."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(1)
    blocks = []
    for number in range(4):
        entities = rng.permutation(ENTITIES)[:BLOCK_EVENTS]
        offset = np.arange(BLOCK_EVENTS) + number * BLOCK_EVENTS
        blocks.append(
            Block(
                0, int(offset[0]), int(offset[-1]) + 1, int(offset[0]), offset,
                np.zeros(BLOCK_EVENTS, np.int32), BASE_US + offset * 1_000,
                pa.array([f"host-{entity:07d}" for entity in entities]),
                noise.normal(size=(BLOCK_EVENTS, FEATURES)).astype(np.float32),
            )
        )  # fmt: skip
    return blocks


def _micros(work: Callable[[], Any], blocks: int, events: int = BLOCK_EVENTS) -> float:
    """CPU microseconds per event, best of `ROUNDS`."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times) / (blocks * events) * 1e6


@njit
def _step_groups(
    table: Any, memory: Any, x: Any, times: Any, at: Any, group: Any, network: Any, scratch: Any
) -> None:
    """The live loop without alert decisions: groups of rows, each prefetched a group ahead."""
    width = len(memory) // len(table)
    for start in range(0, len(at), LANES):
        for lane in range(LANES):
            group.rows[lane], group.events[lane] = at[start + lane], start + lane
            group.next_rows[lane] = at[min(start + LANES + lane, len(at) - 1)]
        step_group(table, memory, x, times, group, LANES, width, network, scratch)


def _kernel(artifact: artifacts.Artifact, table: EntityTable) -> Callable[[], None]:
    rng, forecaster = np.random.default_rng(2), artifact.forecaster
    at = rng.permutation(ENTITIES)[:BLOCK_EVENTS]
    x = rng.normal(size=BLOCK_EVENTS * FEATURES).astype(np.float32)
    times, group = np.full(BLOCK_EVENTS, BASE_US), EventGroup.new()
    group.learn[:] = True
    given = (heads(table.rows), floats(table.rows), x, times, at, group)
    _step_groups(*given, forecaster.network, forecaster.scratch)  # compiles
    return lambda: _step_groups(*given, forecaster.network, forecaster.scratch)


def _gru(gru: Gru) -> Callable[[], None]:
    rng = np.random.default_rng(2)
    at = rng.permutation(ENTITIES)[:BLOCK_EVENTS].reshape(-1, TILE)
    x = rng.normal(size=(BLOCK_EVENTS, FEATURES)).astype(np.float32)
    slab = np.zeros((ENTITIES, HIDDEN), np.float32)

    def step() -> None:
        for number, chosen in enumerate(at):
            _, slab[chosen] = gru.step(x[number * TILE : (number + 1) * TILE], slab[chosen])

    return step


def _torch_single(weights: dict[str, np.ndarray]) -> float:
    import torch  # heavy, and absent where only this figure is missing

    torch.set_num_threads(1)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    cell, head = torch.nn.GRUCell(FEATURES, HIDDEN), torch.nn.Linear(HIDDEN, FEATURES)
    cell.load_state_dict({n: tensors[n] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    head.load_state_dict({"weight": tensors["head_weight"], "bias": tensors["head_bias"]})
    x = torch.randn(TORCH_EVENTS, FEATURES)
    hidden = torch.zeros(TORCH_EVENTS, HIDDEN)

    def step() -> None:
        for event in range(TORCH_EVENTS):
            one = slice(event, event + 1)
            error = x[one] - head(hidden[one])
            (error * error).mean().item()
            hidden[one] = cell(x[one], hidden[one])

    with torch.inference_mode():
        return _micros(step, 1, TORCH_EVENTS)


def profile(artifact: artifacts.Artifact, scorer: Scorer, table: EntityTable) -> dict[str, float]:
    """CPU microseconds per event of each stage of streamgauge, alone and on warm caches."""
    decoder = Decoder(artifact.schema, DecodeLimits())
    messages = {form: _messages(form) for form in ("json", "arrow")}

    def decode(form: str) -> Block:
        return decoder.decode(0, messages[form], 0, BLOCK_EVENTS)[0]

    block, ends = decode("arrow"), new_ends(2)
    wire, scored = encode_block(block), scorer.step(table, block)
    stages: dict[str, Callable[[], Any]] = {
        "decode JSON": lambda: decode("json"),
        "decode Arrow": lambda: decode("arrow"),
        "cut into 2 shards": lambda: list(cut(block, ends, "entity")),
        "block to bytes": lambda: encode_block(block),
        "bytes to block": lambda: decode_block(wire),
        "scorer: names to rows": lambda: table.find(block.entities()[0]),
        "scorer: all": lambda: scorer.step(table, block),
        "scores to bytes": lambda: list(encode_scores("t", artifact.digest, scored, "arrow")),
    }
    found = {name: _micros(work, 1) for name, work in stages.items()}
    return {name: round(value, 3) for name, value in (found | _inside(artifact, table)).items()}


def _messages(form: str) -> list[Message]:
    """A block's events as Kafka messages of one partition."""
    load = Load(ENTITIES, BLOCK_EVENTS)
    events = np.arange(BLOCK_EVENTS)
    sent = getattr(Encoder(load), form)(events, load.time_us[events])
    return [Message(offset, BASE_US, value) for offset, (_, _, value) in enumerate(sent)]


@njit
def _products(network: Any, memory: Any, given: Any, groups: int) -> None:
    for _ in range(groups):
        product(network.from_hidden, memory, given.hidden_at, LANES, given.from_hidden)
        product(network.from_event, given.event, given.event_at, LANES, given.from_event)


@njit
def _gates(network: Any, memory: Any, given: Any, groups: int) -> None:
    addresses = _addresses_of(memory, memory, network, given)
    for _ in range(groups):
        for lane in range(LANES):
            _advance(given.hidden_at[lane], lane, addresses)


def _inside(artifact: artifacts.Artifact, table: EntityTable) -> dict[str, float]:
    """The kernel's matrix products and gates; the rest is work per feature, and memory."""
    network, groups = artifact.forecaster.network, BLOCK_EVENTS // LANES
    scratch = Scratch.of(artifact.schema.bounds(), HIDDEN)
    memory = np.zeros(LANES * HIDDEN, np.float32)
    scratch.hidden_at[:] = np.arange(LANES) * HIDDEN
    stages = {
        "kernel: products": lambda: _products(network, memory, scratch, groups),
        "kernel: gates": lambda: _gates(network, memory, scratch, groups),
    }
    for work in stages.values():
        work()  # compiles
    found = {name: _micros(work, 1) for name, work in stages.items()}
    rest = _micros(_kernel(artifact, table), 1) - sum(found.values())
    return {**found, "kernel: features and memory": rest}
