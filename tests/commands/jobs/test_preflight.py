from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Producer

from fixtures.artifacts import make_artifact
from fixtures.broker import mock_broker
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import from_dict
from streamgauge.pipeline.jobs import sample
from streamgauge.pipeline.jobs.preflight import (
    check_input,
    check_state_folder,
    load_artifact,
    snapshots_in,
)


def _check(folder: str) -> None:
    check_state_folder(from_dict({"artifact": "a", "state": {"folder": folder}}))


def test_a_state_folder_may_be_absent_and_is_not_created(tmp_path: Path) -> None:
    _check(str(tmp_path / "new" / "state"))
    assert list(tmp_path.iterdir()) == []
    check_state_folder(from_dict({"artifact": "a"}))


def test_a_state_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state\.folder: must be a folder; .*file is a file"):
        _check(str(tmp_path / "file" / "state"))


def test_a_state_folder_in_an_unknown_file_system_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"state\.folder: must be a folder that can be opened"):
        _check("unknown://bucket/state")
    with pytest.raises(ConfigError, match=r"--state: must be a folder that can be opened"):
        snapshots_in("unknown://bucket/state", "--state")


def test_an_artifact_with_other_features_is_refused_and_the_first_difference_named(
    tmp_path: Path,
) -> None:
    artifact = make_artifact(tmp_path / "artifact", features=3)

    def load(features: list[str]) -> None:
        load_artifact(from_dict({"artifact": str(artifact), "input": {"features": features}}))

    load(["f00", "f01", "f02"])
    with pytest.raises(ConfigError, match="at position 1 it has 'f01'; got 'f02'"):
        load(["f00", "f02", "f01"])
    with pytest.raises(ConfigError, match="3 features in their order; got 2: "):
        load(["f00", "f01"])


GOOD = b'{"entity_id": "a", "event_time_us": 1704067200000000, "features": [1, 2, 3]}'
BYTE_ORDER_MARK = b"\xef\xbb\xbf" + GOOD
OTHER_MODEL = GOOD.replace(b"[1, 2, 3]", b"[1, 2, 3, 4]")
#: Values of partition 0, values of partition 1.
JUNK_BEHIND_GOOD = {
    "a byte order mark": ([GOOD] * 500 + [BYTE_ORDER_MARK] * 8, []),
    "junk for hours": ([GOOD] * 3 + [b"\x00"] * 30_000, []),
    "good only between junk": ([b"{"] * 200 + [GOOD] + [b"{"] * 700, []),
    "good in another partition": ([b"{"] * 50, [GOOD] * 2 + [b"null"] * 20),
    "after a change of the model": ([GOOD] * 5 + [OTHER_MODEL] * 100, []),
}


def _checked(folder: Path, partitions: tuple[list[bytes], ...]) -> list[str]:
    """The warnings of `check_input` about an input with these values, by partition."""
    owner, address = mock_broker()
    producer = Producer({"bootstrap.servers": address})
    for partition, values in enumerate(partitions):
        for value in values:
            producer.produce("telemetry", value, partition=partition)
    assert producer.flush(30) == 0
    artifact = make_artifact(folder / "artifact", features=3)
    settings = {
        "artifact": str(artifact),
        "kafka": {"bootstrap_servers": address},
        "input": {"topic": "telemetry"},
    }
    lines: list[str] = []
    assert check_input(from_dict(settings), artifacts.load(artifact), lines.append) == 4
    del owner  # the broker ends with it
    return lines


@pytest.mark.parametrize("partitions", JUNK_BEHIND_GOOD.values(), ids=JUNK_BEHIND_GOOD)
def test_junk_behind_good_events_is_a_warning(
    tmp_path: Path, partitions: tuple[list[bytes], ...]
) -> None:
    [line] = _checked(tmp_path, partitions)
    assert line.startswith("warning: input.topic: the newest messages of 'telemetry' cannot be")


def test_good_events_among_the_newest_need_no_warning(tmp_path: Path) -> None:
    assert _checked(tmp_path, ([GOOD, b"{"],)) == []
    assert _checked(tmp_path, ([b"{"] * 20, [GOOD])) == []
    assert _checked(tmp_path, ()) == []


@pytest.mark.parametrize("junk", [BYTE_ORDER_MARK, OTHER_MODEL, b"\x00", b"[]"])
def test_an_input_without_any_event_that_fits_is_refused(tmp_path: Path, junk: bytes) -> None:
    with pytest.raises(ConfigError, match="none of the newest does"):
        _checked(tmp_path, ([junk] * 600, [junk]))


def test_the_look_back_ends_in_time_and_then_tries_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "LOOK_BACK_S_MAX", 0.0)
    assert len(_checked(tmp_path, ([GOOD] + [b"{"] * 100,))) == 1
    with pytest.raises(ConfigError, match="none of the newest does"):
        _checked(tmp_path, ([b"{"] * 100 + [GOOD] + [b"{"] * 100,))
