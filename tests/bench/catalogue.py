"""The catalogue of peers: how each is started, and which facts its figures need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.environments import PEERS, prepare

DURABLE_S = 10.0  # everyone's checkpoints, snapshots or commits


@dataclass(frozen=True)
class Peer:
    """One way of scoring the topic."""

    name: str
    #: Folder under `tests/bench/peers`; None is streamgauge itself.
    folder: str | None
    #: "json" or "arrow".
    form: str
    #: The state that survives a crash.
    durability: str
    #: Its work per event, compared with the others.
    note: str
    durable_s: float = DURABLE_S
    #: "ours": gate of the product; "gru": shared core, gated; "other": another detector.
    detector: str = "gru"
    #: Whether it runs as a job on the Flink cluster instead of as processes of its own.
    on_flink: bool = False
    #: Whether its model per entity is so large that it reads the topic with few entities.
    few_entities: bool = False
    #: More environment variables.
    settings: tuple[tuple[str, str], ...] = ()

    def command(self, environments: Path) -> tuple[list[str], dict[str, str]]:
        """The command and the added environment variables; creates the environment first."""
        assert self.folder is not None
        env = prepare(self.folder, environments)
        if self.folder == "rcf":
            return ["java", "-Xmx6g", "-cp", f"{env}/classes:{env}/jars/*", "Peer"], {}
        added = {"PYTHONPATH": str(PEERS), "PATH_FIRST": str(env / "bin")} | dict(self.settings)
        if self.folder == "pyflink":
            added["SG_CONNECTOR"] = str(next((env / "jars").glob("flink-sql-connector-*.jar")))
        return [str(env / "bin" / "python"), str(PEERS / self.folder / "peer.py")], added

    @property
    def module(self) -> str:
        """Python module that builds the job of a peer on Flink."""
        return f"bench.peers.{self.folder}.job"


OURS_DOES = (
    "all of the product: normaliser, linear part, GRU, two residual scales, smoothing, "
    "thresholds, alerts, drift statistics, dead letters, health"
)
CORE = "GRU step, head, squared error"
EXACT = "Flink checkpoints, exact state, output at least once with equal ids"

PEERS_OF_BENCH = (
    Peer("streamgauge, Arrow", None, "arrow", EXACT, OURS_DOES, detector="ours", on_flink=True),
    Peer("streamgauge, JSON", None, "json", EXACT, OURS_DOES, detector="ours", on_flink=True),
    Peer(
        "hand loop, Arrow", "hand_loop", "arrow", "snapshot and offsets to a file",
        f"{CORE}, batched over entities; output repeats after a crash",
    ),
    Peer("hand loop, JSON", "hand_loop", "json", "snapshot and offsets to a file",
         f"{CORE}, batched over entities; output repeats after a crash"),
    Peer("hand loop, Arrow, no snapshots", "hand_loop", "arrow", "none",
         f"{CORE}, batched over entities", durable_s=0.0),
    Peer("hand loop, JSON, no snapshots", "hand_loop", "json", "none",
         f"{CORE}, batched over entities", durable_s=0.0),
    Peer("naive loop", "naive_loop", "json", "offsets only; state is lost",
         f"{CORE}, torch, one event at a time", durable_s=0.0),
    Peer("Beam, a cell per entity", "beam_per_entity", "json", "Flink checkpoints, at least once",
         f"{CORE}, one event at a time; streamgauge's reader, the same Flink and bundles",
         on_flink=True),
    Peer("Quix Streams", "quix", "json", "RocksDB with changelog topic, at least once",
         f"{CORE}, one event at a time"),
    Peer("Quix Streams, no changelog", "quix", "json", "local RocksDB only",
         f"{CORE}, one event at a time", durable_s=0.0),
    Peer("Bytewax", "bytewax_flow", "json", "recovery store per epoch, at least once",
         f"{CORE}, one event at a time"),
    Peer("PyFlink, process mode", "pyflink", "json", "Flink checkpoints, heap state, at least once",
         f"{CORE}, one event at a time; the default bundles, its own mini cluster",
         settings=(("SG_MODE", "process"),)),
    Peer("PyFlink, thread mode", "pyflink", "json", "Flink checkpoints, heap state, at least once",
         f"{CORE}, one event at a time; Python inside the JVM, its own mini cluster",
         settings=(("SG_MODE", "thread"),)),
    Peer("Beam ml.anomaly z-score", "beam_zscore", "json", "Flink checkpoints, at least once",
         "z-score of one feature per entity; streamgauge's reader, the same Flink and bundles",
         detector="other", on_flink=True),
    Peer("Random Cut Forest (Java)", "rcf", "json", "none",
         "50 trees of 256 points per entity; learns continuously",
         durable_s=0.0, detector="other", few_entities=True),
    Peer("River HalfSpaceTrees", "hst", "json", "none",
         "10 trees of height 8 per entity; learns continuously",
         durable_s=0.0, detector="other", few_entities=True),
)  # fmt: skip

BY_NAME = {peer.name: peer for peer in PEERS_OF_BENCH}
