"""State of every released format stays readable: files that were written once, in golden/."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from golden.make import DIGESTS, HERE, build, digests
from streamgauge.models.errors import StateFormatError

RELEASED = sorted(path.name for path in HERE.iterdir() if (path / DIGESTS).exists())
NEWEST = RELEASED[-1]


def files_of(released):
    return {path.name: path.read_bytes() for path in (HERE / released).iterdir()}


@pytest.mark.parametrize("released", RELEASED)
def test_state_of_a_released_format_is_read_as_it_was_then(released):
    expected = json.loads((HERE / released / DIGESTS).read_text())
    assert digests(files_of(released)) == expected


def test_this_release_writes_the_newest_format_and_no_other_bytes_under_its_number():
    """If this fails, a layout has changed: give it a new number, and make a folder for it."""
    kept, now = files_of(NEWEST), build()
    assert set(kept) - {DIGESTS} == set(now)
    for name in now:
        if name != "snapshot.parquet":  # its bytes are also pyarrow's
            assert now[name] == kept[name], name
    [one, other] = [pq.ParquetFile(pa.BufferReader(f["snapshot.parquet"])) for f in (kept, now)]
    assert one.schema_arrow.remove_metadata() == other.schema_arrow.remove_metadata()
    assert one.metadata.metadata[b"streamgauge"] == other.metadata.metadata[b"streamgauge"]
    assert one.read().equals(other.read())


@pytest.mark.parametrize("name", ["block.bin", "epoch.bin", "position.bin", "drift.bin"])
def test_a_format_of_a_later_release_is_refused(name):
    files = files_of(NEWEST)
    files[name] = b"\x63" + files[name][1:]
    with pytest.raises(StateFormatError, match=r"reads format \d; got 99"):
        digests(files)


def test_golden_files_are_small():
    assert sum(len(data) for name in RELEASED for data in files_of(name).values()) < 200_000
