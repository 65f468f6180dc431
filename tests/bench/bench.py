"""`make bench`: everything side by side, to `build/bench/results.json` and `docs/benchmarks.md`.

Peers run one after the other, each alone on one core while the broker has the other, in an
order that is rotated from round to round. A speed counts only behind the gate. What cannot
run leaves its reason in place of its figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from artifacts import make_artifact
from bench import (
    cluster_jobs,
    gate,
    kernel,
    latency,
    load,
    measure,
    page,
    quality,
    scale,
    scaling,
    topics,
)
from bench.catalogue import BY_NAME, PEERS_OF_BENCH, Peer
from bench.load import FEATURES, HIDDEN, SKEWS, Load
from bench.measure import Input, Setting
from bench.summary import ratios, summary
from confluent_kafka import KafkaException

from infra.errors import InfraError
from models import artifact as artifacts
from models.errors import StreamgaugeError

ROOT = Path(__file__).parents[2]
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
SCALE_EVENTS = 3_000_000
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
    """How much is measured."""

    entities: int
    arrow_events: int
    json_events: int
    #: Entities and events of the topic for detectors with a large model per entity.
    few_entities: int
    few_events: int
    rounds: int
    #: The longest a peer drains a topic, counted from its first score.
    seconds_max: float
    #: Of each latency measurement.
    latency_s: float
    #: Also the variants, other loads, all rates, and what the detectors find.
    is_full: bool


# More events than most can drain in the time: a run that is cut off in full swing has as much
# under way at the end of the measured window as at its beginning.
FULL = Size(100_000, 10_000_000, 5_000_000, 100, 100_000, 3, 45.0, 30.0, True)
QUICK = Size(10_000, 2_000_000, 1_000_000, 20, 12_000, 1, 8.0, 6.0, False)


def main() -> None:
    """Measure what was asked for and write it down."""
    given = arguments()
    size = QUICK if given.quick else FULL
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    results: dict[str, Any] = {"about": about(size), "runs": {}, "latency": {}, "skew": {}}
    results |= {"quality": {}, "scale": {}}
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        work = Path(folder)
        artifact = make_artifact(work / "artifact", FEATURES, HIDDEN)
        say("kernel")
        results["kernel"] = kernel.measure(artifact)
        weights = gate.save_weights(artifacts.load(artifact), work / "weights.npz")
        with cluster_jobs.place(work / "cluster", cluster_jobs.cores(), say) as place:
            setting = Setting(place, work, out / "env", artifact, weights, say)
            bench(setting, size, given.only, results)
            if size.is_full and not given.only:
                say("a million entities")
                results["scale"] = attempted(lambda: scale.measure_scale(setting, SCALE_EVENTS))
        if size.is_full and given.quality_data and not given.only:
            say("what the detectors find")
            own = out.with_name("quality") / "smd" / "evaluation.json"
            data, environments = given.quality_data / "smd", out / "env"
            results["quality"] = attempted(lambda: quality.measure(data, environments, own))
    results["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
    results["ratios"], results["why_null"] = ratios(results)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    # A short or partial run must not take the place of the figures that are told.
    is_told = not (given.quick or given.only)
    page.write(results, out, is_told)
    scaling.write(results, page.DOCS, out, is_told)
    print(json.dumps(results["ratios"]))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--only", action="append", help="peers by name, may be repeated")
    parser.add_argument("--quality-data", type=Path, help="labelled development sets")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    given = parser.parse_args()
    for name in given.only or ():
        if name not in BY_NAME:
            parser.error(f"--only: a peer is one of {list(BY_NAME)}; got {name!r}")
    return given


def bench(setting: Setting, size: Size, only: list[str] | None, results: dict[str, Any]) -> None:
    """All rounds, then skews and latency."""
    skipped = () if size.is_full or only else VARIANTS
    chosen = [peer for peer in PEERS_OF_BENCH if peer.name in (only or BY_NAME)]
    chosen = [peer for peer in chosen if peer.name not in skipped]
    inputs = preload(setting, size, chosen, results)
    for turn in range(size.rounds):
        shift = turn * len(chosen) // size.rounds
        for peer in chosen[shift:] + chosen[:shift]:
            form = "few" if peer.few_entities else peer.form
            run = attempt(setting, peer, inputs[form], size.seconds_max)
            results["runs"].setdefault(peer.name, []).append(run)
    for skew in SKEWS[1:] if size.is_full else ():
        skewed(setting, size, skew, [p for p in chosen if p.name in SKEWED], results)
    for peer in chosen:
        is_timed = peer.name in (TIMED if size.is_full else TIMED[:1])
        if is_timed and (best := summary(results["runs"][peer.name])) is not None:
            results["latency"][peer.name] = timed(setting, size, peer, best["events_s"])


def preload(
    setting: Setting, size: Size, chosen: list[Peer], results: dict[str, Any]
) -> dict[str, Input]:
    """Fill the topics that the chosen peers read."""
    loads = {
        "arrow": Load(size.entities, size.arrow_events),
        "json": Load(size.entities, size.json_events),
        "few": Load(size.few_entities, size.few_events),
    }
    wanted = {"few" if peer.few_entities else peer.form for peer in chosen}
    inputs, about = {}, results["about"].setdefault("bytes_per_event", {})
    for name in wanted:
        inputs[name] = Input(loads[name], f"in-{name}")
        topics.create(setting.place.servers, inputs[name].topic, load.PARTITIONS)
        form = "arrow" if name == "arrow" else "json"
        sent = load.publish(loads[name], form, inputs[name].topic, setting.place.servers)
        about[name] = round(sent / loads[name].events, 1)
        say(f"preloaded {loads[name].events:,} events of {loads[name].entities:,} as {form}")
    return inputs


def attempt(setting: Setting, peer: Peer, given: Input, seconds_max: float) -> dict[str, Any]:
    """One run, or the reason why there is none."""
    run = attempted(lambda: measure.drain(setting, peer, given, seconds_max))
    if "reason" in run:
        return run
    say(
        f"{peer.name}: {run['events_s']:,} events/s, {run['cpu_s_per_million']:.1f} CPU s per "
        f"million, {run['resident_mb']} MB, {run['cores_outside']:.2f} cores busy outside"
    )
    return run


def skewed(
    setting: Setting, size: Size, skew: str, chosen: list[Peer], results: dict[str, Any]
) -> None:
    """One round over a load in which entities are not alike."""
    if not chosen:
        return
    given = Input(Load(size.entities, size.arrow_events // 2, skew), f"in-{skew}")
    topics.create(setting.place.servers, given.topic, load.PARTITIONS)
    load.publish(given.load, "arrow", given.topic, setting.place.servers)
    say(f"load: {skew}")
    results["skew"][skew] = {
        peer.name: attempt(setting, peer, given, size.seconds_max) for peer in chosen
    }
    topics.delete(setting.place.servers, given.topic)


def timed(setting: Setting, size: Size, peer: Peer, most: float) -> dict[str, Any]:
    """Latency at the common rate and at two shares of the peer's own maximum."""
    given, found = Load(size.entities, 1), {}
    rates = {"common rate": COMMON_RATE, "50 % of own": 0.5 * most}
    if size.is_full:
        rates["80 % of own"] = 0.8 * most
    for name, rate in rates.items():
        found[name] = attempted(
            partial(latency.measure, setting, peer, given, rate, size.latency_s)
        )
        say(f"{peer.name} at {name}: {found[name]}")
    return found


def attempted(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` measured, or the reason why there is nothing."""
    try:
        return work()
    except FAILURES as error:
        say(str(error))
        return {"reason": " ".join(str(error).split())[:600]}


def about(size: Size) -> dict[str, Any]:
    """What the figures belong to."""
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


def say(line: str) -> None:
    """Narrate on stderr; stdout is for the ratios."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
