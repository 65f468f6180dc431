from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.artifacts import make_artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import from_dict
from streamgauge.pipeline.jobs.preflight import check_state_folder, load_artifact, snapshots_in


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
