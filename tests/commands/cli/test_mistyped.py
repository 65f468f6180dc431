"""Mistyped commands, options and settings: refused with the near name, and nothing starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.cli import main
from streamgauge.pipeline.config import load

RUN = "run -c JOB"
#: What was typed, and the near name.
MISTYPED = {
    f"{RUN} --savepont /savepoints/1": "--savepoint",
    f"{RUN} --save-point /savepoints/1": "--savepoint",
    f"{RUN} --savepiont=/savepoints/1": "--savepoint",
    f"{RUN} --embeded": "--embedded",
    f"{RUN} --sate exported": "--state",
    f"{RUN} --frehs": "--fresh",
    f"{RUN} --conifg JOB": "--config",
    f"{RUN} --sett flink.parallelism=3": "--set",
    "rnu -c JOB": "'run'",
    "stpo -c JOB": "'stop'",
    "state exprot -c JOB": "'export'",
    "alerts tial": "'tail'",
    "stop -c JOB --no-savepiont": "--no-savepoint",
    "backtest -c JOB --form earliest": "--from",
    "backtest -c JOB --runner flnk": "'flink'",
    "up --task-manager 2": "--task-managers",
    "down --wype": "--wipe",
    "doctor -c JOB --embeded": "--embedded",
    "produce --dta . --topic t": "--data",
    "audit -c JOB --entites 3": "--entities",
    "state inspect -c JOB --entty a": "--entity",
    f"{RUN} --set flnk.parallelism=2": "'flink.parallelism'",
    f"{RUN} --set flink.paralelism=2": "'flink.parallelism'",
    f"{RUN} --set parallelism=2": "'flink.parallelism'",
    f"{RUN} --set scoring.shard=2": "'scoring.shards'",
    f"{RUN} --set input.limts.message_bytes_max=2": "'input.limits.message_bytes_max'",
    f"{RUN} --set input.limits.mesage_bytes_max=2": "'input.limits.message_bytes_max'",
    f"{RUN} --set kafka.setings.security.protocol=SSL": "'kafka.settings'",
    f"{RUN} --set alerts.policy.cooldown_s=2": "'alerts.cooldown_s'",
    f"{RUN} --set alerts.cooldown=2": "'alerts.cooldown_s'",
    f"{RUN} -- --max_bundle_sise=3": "--max_bundle_size?",
    f"{RUN} -- --max_bundle_time_millis=3": "--max_bundle_time_mills?",
    f"{RUN} -- --sdk_worker_paralelism 2": "--sdk_worker_parallelism?",
    f"{RUN} -- --checkpointing-interval=3": "--checkpointing_interval?",
    f"{RUN} -- --parallelism=2 --object_resue": "--object_reuse?",
    f"{RUN} -- --savepoint_path=/savepoints/1": "--savepoint PATH",
    f"{RUN} -- --savepoint /savepoints/1": "--savepoint PATH",
    f"{RUN} -- --job_name=other": "the setting `name`",
    "backtest -c JOB --runner flink -- --max_paralelism=3": "--max_parallelism?",
}
#: What is wrong without a near name, and what the message says.
WRONG = {
    f"{RUN} --max_bundle_size=3": "No such option: --max_bundle_size",
    f"{RUN} stray": "must start with --; got 'stray'",
    f"{RUN} -- stray": "must start with --; got 'stray'",
    f"{RUN} -- --max_bundle_size 3 stray": "must start with --; got 'stray'",
    f"{RUN} -- --parallelism=two": "--parallelism: invalid int value: 'two'",
    "backtest -c JOB -- --parallelism=2": "--runner: must be flink for options for Beam",
    f"{RUN} --set flink.parallelism": "--set: must be section.key=value",
    f"{RUN} --set flink.parallelism.x=2": "'parallelism' in 'flink.parallelism.x' is not a section",
    f"{RUN} --set kafka.settings.sasl.password=[x": "kafka.settings.sasl.password: the value must",
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration; reading its artifact, which comes first in every command, is a start."""

    def start(*_: object) -> None:
        raise AssertionError("the command started")

    monkeypatch.setattr("streamgauge.pipeline.jobs.preflight.load_artifact", start)
    for name in ("up", "down", "status"):
        monkeypatch.setattr(f"streamgauge.infra.local.cluster.{name}", start)
    file = tmp_path / "job.yaml"
    file.write_text("artifact: artifact\n")
    return file


@pytest.mark.parametrize(("typed", "text"), {**MISTYPED, **WRONG}.items())
def test_what_is_mistyped_is_refused_and_nothing_starts(
    typed: str,
    text: str,
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(job) if word == "JOB" else word for word in typed.split()]
    monkeypatch.setattr(sys, "argv", ["streamgauge", *words])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    output = capsys.readouterr()
    assert (stopped.value.code, output.out) == (2, "")
    assert text in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    "options",
    [
        "--max_bundle_time_mills=20 --max_bundle_size=16",
        "--parallelism 2 --operator_chaining",
        "--sdk_worker_parallelism=2 --experiments=beam_fn_api",
    ],
)
def test_options_that_beam_or_flink_knows_reach_the_job(
    options: str, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str] = []

    def submit(*_: object, beam_args: list[str], **__: object) -> None:
        received.extend(beam_args)

    monkeypatch.setattr("streamgauge.pipeline.jobs.run.run", submit)
    monkeypatch.setattr(sys, "argv", ["streamgauge", "run", "-c", str(job), "--", *options.split()])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 0
    assert received == options.split()


def test_everything_after_a_map_is_one_key(job: Path) -> None:
    config = load(job, ["kafka.settings.security.protocol=SSL", "kafka.settings.acks=all"])
    assert config.kafka.settings == {"security.protocol": "SSL", "acks": "all"}


def test_a_value_that_cannot_be_read_is_not_repeated(job: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(job, ["kafka.settings.ssl.key.pem='hunter2"])
    assert "hunter2" not in str(caught.value)
