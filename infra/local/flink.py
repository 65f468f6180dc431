"""Flink's session cluster and Beam's job server in front of it, loopback only.

Flink is installed as jars without its start scripts. This module replaces them: it writes
`config.yaml`, sets every memory size, and opens the modules that Java 17 closes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from streamgauge.infra.errors import FlinkRestError
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local.jars import Jars, classpath
from streamgauge.infra.processes import parts
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import ProcessRecord, is_listening, replace_text

# From the `env.java.opts.all` of Flink 1.19's own config.yaml.
_EXPORTS = (
    "java.base/sun.net.util",
    "java.rmi/sun.rmi.registry",
    "java.security.jgss/sun.security.krb5",
)
_OPENS = (
    "java.base/java.lang",
    "java.base/java.net",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/sun.nio.ch",
    "java.base/java.lang.reflect",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.util.concurrent.locks",
)
MODULES = [
    *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
    *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
]
# JobManager and job server do little work, so a quick start matters more than peak speed.
_QUICK_START = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
# Each job loads classes in a new class loader, and some are never freed.
_METASPACE_MB = 768
_METASPACE = f"-XX:MaxMetaspaceSize={_METASPACE_MB}m"


def jobmanager_part(directory: Path, ports: Ports, jars: Jars) -> parts.Part:
    """Describe the JobManager."""
    main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    java = [jars.java, "-Xmx768m", _METASPACE, *_QUICK_START, *_jvm(directory), *MODULES]
    return parts.Part(
        name="jobmanager",
        command=[*java, "-cp", _cluster_classpath(jars), main, "--configDir", _conf(directory)],
        environment=parts.environment(directory),
        ports=("rest", "rpc"),
        is_healthy=lambda _: _answers(rest_url(ports)),
        deadline_s=60.0,
        # Without ZooKeeper a new JobManager would not know the jobs of the killed one.
        supervision="restart" if ports.zookeeper else "none",
    )


def zookeeper_part(directory: Path, ports: Ports, jars: Jars) -> parts.Part:
    """Describe the single ZooKeeper node, from Flink's jars."""
    settings = directory / "conf" / "zookeeper.properties"
    main = "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer"
    java = [jars.java, "-Xmx128m", *_QUICK_START, *_jvm(directory), "-cp", classpath(jars.flink)]

    def prepare() -> None:
        lines = (
            f"{name}={value}\n" for name, value in zookeeper_settings(directory, ports).items()
        )
        replace_text(settings, "".join(lines))

    return parts.Part(
        name="zookeeper",
        command=[*java, main, "--zkConfigFile", str(settings), "--peerId", "1"],
        environment=parts.environment(directory),
        ports=("zookeeper",),
        is_healthy=lambda _: is_listening(ports.zookeeper),
        deadline_s=60.0,
        prepare=prepare,
    )


def zookeeper_settings(directory: Path, ports: Ports) -> dict[str, str | int]:
    """Return ZooKeeper's settings: loopback only, no admin page."""
    return {
        "clientPort": ports.zookeeper,
        "clientPortAddress": "127.0.0.1",
        "dataDir": str(directory / "zookeeper"),
        "tickTime": 2000,
        "initLimit": 10,
        "syncLimit": 5,
        "admin.enableServer": "false",
    }


def taskmanager_part(
    directory: Path, ports: Ports, jars: Jars, index: int, slots: int
) -> parts.Part:
    """Describe one TaskManager and its supervisor, which restarts it when it ends."""
    name = f"taskmanager-{index}"
    memory = task_manager_memory_mb(slots)
    heap, direct = memory["heap"], memory["direct"]
    java = [
        # C1 only: a TaskManager moves blocks between sockets and RocksDB. On two cores the
        # optimising compiler costs more than it saves in the first minutes of each job.
        *(jars.java, f"-Xms{heap}m", f"-Xmx{heap}m", f"-XX:MaxDirectMemorySize={direct}m"),
        *(
            _METASPACE,
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            *_jvm(directory),
            *MODULES,
        ),
        *(
            "-cp",
            _cluster_classpath(jars),
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
        ),
        *("--configDir", _conf(directory), "-D", f"taskmanager.resource-id={name}"),
    ]
    return parts.Part(
        name=name,
        command=java,
        environment=parts.environment(directory),
        ports=(),
        is_healthy=lambda record: _is_registered(rest_url(ports), name, record),
        deadline_s=90.0,
        supervision="restart",
    )


def job_server_part(
    directory: Path, ports: Ports, jars: Jars, embedded: bool = False
) -> parts.Part:
    """Describe Beam's job server.

    Args:
        directory: the cluster's folder.
        ports: the cluster's ports.
        jars: from `jars.resolve`.
        embedded: run Flink inside the job server instead of using the cluster's.
    """
    main = "org.apache.beam.runners.flink.FlinkJobServerDriver"
    heap = "-Xmx2g" if embedded else "-Xmx768m"
    quick = [] if embedded else _QUICK_START
    java = [jars.java, heap, _METASPACE, *quick, *_jvm(directory), *MODULES]
    return parts.Part(
        name="job-server",
        command=[
            *(*java, "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp"),
            *(classpath(jars.beam), main),
            f"--flink-master={'[local]' if embedded else f'127.0.0.1:{ports.rest}'}",
            f"--flink-conf-dir={directory / 'conf' / 'client'}",
            f"--artifacts-dir={directory / 'artifacts'}",
            *("--job-host=127.0.0.1", f"--job-port={ports.job}"),
            *(f"--artifact-port={ports.artifact}", "--expansion-port=-1"),
        ],
        environment=parts.environment(directory),
        ports=("job", "artifact"),
        is_healthy=lambda _: is_listening(ports.job),
        deadline_s=60.0,
        supervision="tied" if embedded else "none",
    )


def write_config(directory: Path, ports: Ports, slots: int) -> None:
    """Write Flink's settings for the cluster, and those for the side that submits jobs."""
    for folder in ("tmp", "artifacts", "checkpoints", "savepoints"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    parts.write_log_settings(directory)
    cluster = cluster_settings(directory, ports, slots)
    _write_yaml(directory / "conf" / "flink" / "config.yaml", cluster)
    _write_yaml(directory / "conf" / "client" / "config.yaml", client_settings())


def clear_scratch(directory: Path) -> None:
    """Remove scratch files of a killed Flink; call it only while no Flink runs."""
    shutil.rmtree(directory / "tmp", ignore_errors=True)


def cluster_settings(directory: Path, ports: Ports, slots: int) -> dict[str, str | int | bool]:
    """Return the settings of JobManager and TaskManagers."""
    memory = task_manager_memory_mb(slots)
    return {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": ports.rpc,
        "jobmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": ports.rest,
        "web.submit.enable": False,
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": slots,
        "taskmanager.cpu.cores": slots,
        "taskmanager.memory.framework.heap.size": f"{memory['framework_heap']}m",
        "taskmanager.memory.task.heap.size": f"{memory['task_heap']}m",
        "taskmanager.memory.framework.off-heap.size": f"{memory['framework_off_heap']}m",
        "taskmanager.memory.task.off-heap.size": f"{memory['task_off_heap']}m",
        "taskmanager.memory.network.min": f"{memory['network']}m",
        "taskmanager.memory.network.max": f"{memory['network']}m",
        "taskmanager.memory.managed.size": f"{memory['managed']}m",
        "taskmanager.memory.jvm-metaspace.size": f"{_METASPACE_MB}m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "io.tmp.dirs": str(directory / "tmp"),
        # Small machines pause for seconds. A kill is noticed earlier, by the broken connection.
        "heartbeat.interval": 2000,
        "heartbeat.timeout": 40000,
        "state.backend.type": "rocksdb",
        "state.backend.incremental": True,
        # Blocks of float32 do not compress, and trying costs a tenth of the TaskManager's CPU.
        "state.backend.rocksdb.compression.per.level": "NO_COMPRESSION",
        "state.checkpoints.dir": (directory / "checkpoints").as_uri(),
        "state.savepoints.dir": (directory / "savepoints").as_uri(),
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.delay": "1 s",
        "restart-strategy.fixed-delay.attempts": 1_000_000,
        **(high_availability(directory, ports) if ports.zookeeper else {}),
        **client_settings(),
    }


def high_availability(directory: Path, ports: Ports) -> dict[str, str | int | bool]:
    """Return the settings with which a new JobManager resumes the jobs of a killed one."""
    return {
        "high-availability.type": "zookeeper",
        "high-availability.storageDir": (directory / "ha").as_uri(),
        "high-availability.zookeeper.quorum": f"127.0.0.1:{ports.zookeeper}",
        "high-availability.jobmanager.port": ports.rpc,
        # A killed JobManager stays the leader until its session ends; Flink's default is a
        # minute. A shorter session must still outlast the pauses of a small machine.
        "high-availability.zookeeper.client.session-timeout": 15_000,
        "high-availability.zookeeper.client.connection-timeout": 10_000,
        "high-availability.zookeeper.client.tolerate-suspended-connections": True,
    }


def client_settings() -> dict[str, str | int | bool]:
    """Return the settings that a job takes from the side that submits it.

    No state backend here: the job server would load its class and does not have it.
    """
    # Elements are whole blocks: each is sent at once, and no flush thread per step runs.
    return {"execution.buffer-timeout.interval": "0 ms"}


def task_manager_memory_mb(slots: int) -> dict[str, int]:
    """Divide a TaskManager's memory, about 1.2 GB plus 250 MB a slot.

    Network: a job of about six exchanges at parallelism 4. Managed: RocksDB, per slot. Task
    off-heap: gRPC towards the Python workers.
    """
    memory = {
        "framework_heap": 128,
        "task_heap": 512 + 96 * slots,
        "framework_off_heap": 128,
        "task_off_heap": 256,
        "network": 96 + 32 * slots,
        "managed": 128 * slots,
    }
    memory["heap"] = memory["framework_heap"] + memory["task_heap"]
    memory["direct"] = memory["framework_off_heap"] + memory["task_off_heap"] + memory["network"]
    return memory


def rest_url(ports: Ports) -> str:
    """Return the address of Flink's REST API."""
    return f"http://127.0.0.1:{ports.rest}"


def _cluster_classpath(jars: Jars) -> str:
    """Join the patched classes, Flink's jars, and Beam's without Flink and logging."""
    beam = classpath(jars.beam).split(os.pathsep)  # the patch jar comes first in it
    needed = [path for path in beam if not Path(path).name.startswith(("flink-", "slf4j-"))]
    return os.pathsep.join([needed[0], classpath(jars.flink), *needed[1:]])


def _jvm(directory: Path) -> list[str]:
    settings = parts.log_settings_path(directory)
    return [
        f"-Djava.io.tmpdir={directory / 'tmp'}",
        f"-Dlog4j.configurationFile={settings}",
        # By default a crash report goes to the folder from which the JVM was started.
        f"-XX:ErrorFile={directory / 'logs' / 'hs_err_pid%p.log'}",
    ]


def _conf(directory: Path) -> str:
    return str(directory / "conf" / "flink")


def _write_yaml(path: Path, settings: Mapping[str, str | int | bool]) -> None:
    # A JSON scalar is a YAML scalar, so no YAML library is needed here.
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
    replace_text(path, "".join(lines))


def _answers(url: str) -> bool:
    try:
        FlinkRest(url, timeout_s=2.0).overview()
    except FlinkRestError:
        return False
    return True


def _is_registered(url: str, name: str, record: ProcessRecord) -> bool:
    """Return whether the recorded process has registered.

    The JobManager may still list its predecessor, which had the same name, so the last
    heartbeat must be newer than the process.
    """
    try:
        known = FlinkRest(url, timeout_s=2.0).task_managers()
    except FlinkRestError:
        return False
    heartbeats_s = [
        entry["timeSinceLastHeartbeat"] / 1000 for entry in known if entry["id"] == name
    ]
    return any(heartbeat_s > record.started_s for heartbeat_s in heartbeats_s)
