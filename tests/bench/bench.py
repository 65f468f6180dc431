"""`make bench`: measures streamgauge and its peers, and writes `docs/benchmarks.md`.

Peers run one after the other, each alone on one core while the broker has the other. Their
order rotates from round to round. A speed counts only if the scores pass the gate. A peer that
cannot run has its reason in place of figures. Figures are written to `build/bench/results.json`
as soon as they are measured; `--resume` resumes an interrupted run of the same commit and size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import KafkaException

from bench import (
    cluster_jobs,
    gate,
    hot,
    kernel,
    latency,
    load,
    measure,
    page,
    quality,
    recovery,
    scale,
    scaling,
    topics,
)
from bench.catalogue import BY_NAME, PEERS_OF_BENCH, Peer
from bench.load import FEATURES, HIDDEN, SKEWS, Load
from bench.measure import Input, Setting
from bench.progress import Progress
from bench.summary import summary
from fixtures.artifacts import make_artifact
from fixtures.paths import ROOT
from streamgauge.infra.errors import InfraError
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.errors import StreamgaugeError

SKEWED = ("streamgauge, Arrow", "hand loop, Arrow")
VARIANTS = (
    "hand loop, Arrow, no snapshots",
    "hand loop, JSON, no snapshots",
    "Quix Streams, no changelog",
    "PyFlink, process mode",
    "Beam ml.anomaly z-score",
)
TIMED = ("streamgauge, Arrow", "streamgauge, JSON", "hand loop, Arrow", "hand loop, JSON")
COMMON_RATE = 2_000.0
HALF = "50 % of own"
SCALE_EVENTS = 1_500_000
RECOVERY_ENTITIES = 10_000
FAILURES = (
    gate.WrongScoresError,
    InfraError,
    KafkaException,
    OSError,  # TimeoutError too
    RuntimeError,  # a Beam job that could not be submitted
    StreamgaugeError,
    subprocess.SubprocessError,
)


@dataclass(frozen=True)
class Size:
    """The size of a benchmark."""

    entities: int
    arrow_events: int
    json_events: int
    #: Entities and events of the topic for detectors with a large model per entity.
    few_entities: int
    few_events: int
    rounds: int
    #: The longest a peer drains a topic, counted from its first score.
    seconds_max: float
    #: Length of each latency measurement.
    latency_s: float
    #: Whether to measure variants, other loads, all rates and detection quality too.
    is_full: bool


# More events than most peers can drain in the time: a run that is cut off at full speed has as
# many events in its queues at the end of the measured window as at the beginning. The rates of
# both halves show whether the run was steady.
FULL = Size(100_000, 8_000_000, 3_000_000, 100, 60_000, 3, 15.0, 8.0, True)
QUICK = Size(10_000, 2_000_000, 1_000_000, 20, 12_000, 1, 8.0, 6.0, False)


def main() -> None:
    """Run the chosen benchmarks and write the results."""
    given = arguments()
    size = QUICK if given.quick else FULL
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(out / "results.json", about(size), narrate)
    if given.resume:
        progress.take_over()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as name:
        folder = Path(name)
        artifact = make_artifact(folder / "artifact", FEATURES, HIDDEN)
        narrate("kernel")
        progress.once(lambda: kernel.measure(artifact), "kernel")
        weights = gate.save_weights(artifacts.load(artifact), folder / "weights.npz")
        with cluster_jobs.place(folder / "cluster", cluster_jobs.cores(), narrate) as place:
            setting = Setting(place, folder, out / "env", artifact, weights, narrate)
            bench(setting, size, given.only, progress)
            if size.is_full and not given.only:
                scales(setting, progress)
    if size.is_full and given.quality_data and not given.only:
        narrate("detection quality")
        own = out.with_name("quality") / "smd" / "evaluation.json"
        data, environments = given.quality_data / "smd", out / "env"
        progress.once(
            lambda: attempted(lambda: quality.measure(data, environments, own)), "quality"
        )
    progress.write()
    # A short or partial run must not replace published figures.
    is_published = not (given.quick or given.only)
    page.write(progress.results, out, is_published)
    scaling.write(progress.results, page.DOCS, out, is_published)
    print(json.dumps(progress.results["ratios"]))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--resume", action="store_true", help="resume an interrupted benchmark")
    parser.add_argument("--only", action="append", help="peers by name, may be repeated")
    parser.add_argument("--quality-data", type=Path, help="labelled development sets")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    given = parser.parse_args()
    for name in given.only or ():
        if name not in BY_NAME:
            parser.error(f"--only: a peer is one of {list(BY_NAME)}; got {name!r}")
    return given


def bench(setting: Setting, size: Size, only: list[str] | None, progress: Progress) -> None:
    """Run all rounds, then skewed loads, latency and kills."""
    chosen = [peer for peer in PEERS_OF_BENCH if peer.name in (only or BY_NAME)]
    if not (size.is_full or only):
        chosen = [peer for peer in chosen if peer.name not in VARIANTS]
    rounds(setting, size, chosen, progress)
    for skew in SKEWS[1:] if size.is_full else ():
        skewed(setting, size, skew, [p for p in chosen if p.name in SKEWED], progress)
    for peer in chosen:
        is_timed = peer.name in (TIMED if size.is_full else TIMED[:1])
        if is_timed and (best := summary(progress.runs(peer.name))) is not None:
            timed(setting, size, peer, best["events_s"], progress)
    if size.is_full and BY_NAME[TIMED[0]] in chosen:
        work = partial(hot.measure, setting, BY_NAME[TIMED[0]], size.entities, size.latency_s + 5)
        narrate(f"one hot entity: {progress.once(partial(attempted, work), 'hot')}")
    for peer in recovery.killed_peers([peer.name for peer in chosen]) if size.is_full else ():
        work = partial(recovery.measure, setting, peer, RECOVERY_ENTITIES)
        found = progress.once(partial(attempted, work), "recovery", peer.name)
        narrate(f"{peer.name} killed: {found}")


def rounds(setting: Setting, size: Size, chosen: list[Peer], progress: Progress) -> None:
    """Let every peer drain its topic in every round; variants in the first round only."""
    left = [
        (turn, peer)
        for turn in range(size.rounds)
        for peer in rotated(chosen, turn, size.rounds)
        if not (turn and peer.name in VARIANTS)
    ]
    left = [one for one in left if not progress.has("runs", one[1].name, f"round {one[0] + 1}")]
    inputs = preload(setting, size, [peer for _, peer in left], progress)
    for number, (turn, peer) in enumerate(left, 1):
        form = "few" if peer.few_entities else peer.form
        narrate(f"run {number} of {len(left)}: {peer.name}, round {turn + 1}")
        run = attempt(setting, peer, inputs[form], size.seconds_max)
        progress.put(run, "runs", peer.name, f"round {turn + 1}")
    for given in inputs.values():
        topics.delete(setting.place.servers, given.topic)


def rotated(chosen: list[Peer], turn: int, turns: int) -> list[Peer]:
    """The peers in another order for every round."""
    shift = turn * len(chosen) // turns
    return chosen[shift:] + chosen[:shift]


def preload(
    setting: Setting, size: Size, chosen: list[Peer], progress: Progress
) -> dict[str, Input]:
    """Fill the topics that the chosen peers read."""
    loads = {
        "arrow": Load(size.entities, size.arrow_events),
        "json": Load(size.entities, size.json_events),
        "few": Load(size.few_entities, size.few_events),
    }
    wanted = {"few" if peer.few_entities else peer.form for peer in chosen}
    inputs = {}
    for name in sorted(wanted):
        inputs[name] = Input(loads[name], f"in-{name}")
        topics.create(setting.place.servers, inputs[name].topic, load.PARTITIONS)
        form = "arrow" if name == "arrow" else "json"
        sent = load.publish(loads[name], form, inputs[name].topic, setting.place.servers)
        bytes_per_event = round(sent / loads[name].events, 1)
        progress.put(bytes_per_event, "about", "bytes_per_event", name)
        narrate(f"preloaded {loads[name].events:,} events of {loads[name].entities:,} as {form}")
    return inputs


def attempt(setting: Setting, peer: Peer, given: Input, seconds_max: float) -> dict[str, Any]:
    """One run, or the reason why there is none."""
    run = attempted(lambda: measure.drain(setting, peer, given, seconds_max))
    if "reason" in run:
        return run
    narrate(
        f"{peer.name}: {run['events_s']:,} events/s, {run['cpu_s_per_million']:.1f} CPU s per "
        f"million, {run['resident_mb']} MB, {run['cores_outside']:.2f} cores busy outside"
    )
    return run


def skewed(setting: Setting, size: Size, skew: str, chosen: list[Peer], progress: Progress) -> None:
    """Run one round over a skewed load."""
    chosen = [peer for peer in chosen if not progress.has("skew", skew, peer.name)]
    if not chosen:
        return
    given = Input(Load(size.entities, size.arrow_events // 2, skew), f"in-{skew}")
    topics.create(setting.place.servers, given.topic, load.PARTITIONS)
    load.publish(given.load, "arrow", given.topic, setting.place.servers)
    narrate(f"load: {skew}")
    for peer in chosen:
        progress.put(attempt(setting, peer, given, size.seconds_max), "skew", skew, peer.name)
    topics.delete(setting.place.servers, given.topic)


def timed(setting: Setting, size: Size, peer: Peer, most: float, progress: Progress) -> None:
    """Measure latency at the common rate and at two shares of the peer's own maximum."""
    given = Load(size.entities, 1)
    rates = {"common rate": COMMON_RATE, HALF: 0.5 * most}
    if size.is_full:
        rates["80 % of own"] = 0.8 * most
    for name, rate in rates.items():
        work = partial(latency.measure, setting, peer, given, rate, size.latency_s)
        found = progress.once(partial(attempted, work), "latency", peer.name, name)
        narrate(f"{peer.name} at {name}: {found}")


def scales(setting: Setting, progress: Progress) -> None:
    """Measure cost, memory, checkpoints and recovery, from few entities to a million."""
    for entities in scale.ENTITIES:
        narrate(f"{entities:,} entities")
        work = partial(scale.measure, setting, SCALE_EVENTS, entities)
        found = progress.once(partial(attempted, work), "scale", "sizes", str(entities))
        narrate(f"{entities:,} entities: {found}")
    sizes = progress.read("scale", "sizes")
    progress.put({"sizes": sizes, **scale.compared(setting, sizes)}, "scale")


def attempted(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of `work`, or the reason why there are none."""
    try:
        return work()
    except FAILURES as error:
        narrate(str(error))
        return {"reason": " ".join(str(error).split())[:600]}


def about(size: Size) -> dict[str, Any]:
    """The machine, commit and size that the figures belong to."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "size": asdict(size), "cpu": model, "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(), "numpy": np.__version__,
        "commit": commit.stdout.strip(), "features": FEATURES, "hidden": HIDDEN,
    }  # fmt: skip


def narrate(line: str) -> None:
    """Write a progress line to stderr; stdout is for the ratios."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
