"""Keys are spread evenly over Flink's key groups and never change."""

from collections import Counter

import pytest

from streamgauge.transforms.runner.keys import key_group, partition_key, shard_keys, slot_of


@pytest.mark.parametrize("parallelism", [1, 2, 4])
@pytest.mark.parametrize("shards", [4, 8, 16])
def test_shards_are_spread_evenly_over_subtasks(shards, parallelism):
    subtasks = Counter(key_group(key, 128) * parallelism // 128 for key in shard_keys(shards, 128))
    assert set(subtasks.values()) == {shards // parallelism}


@pytest.mark.parametrize("partitions", [2, 4, 8, 32])
def test_partitions_are_spread_evenly_over_subtasks(partitions):
    keys = [partition_key(p, 128) for p in range(partitions)]
    assert [slot_of(key) for key in keys] == list(range(partitions))
    assert set(Counter(key_group(key, 128) * 2 // 128 for key in keys).values()) == {
        partitions // 2
    }


@pytest.mark.parametrize(("key", "group"), [(b"k0", 25), (b"k1", 19), (b"k7", 11)])
def test_key_groups_equal_those_of_the_jvm(key, group):
    assert key_group(key, 32) == group


def test_keys_are_a_contract_with_every_savepoint():
    assert [key.hex() for key in shard_keys(2, 128)] == SHARD_KEYS
    assert [partition_key(p, 128).hex() for p in (0, 1, 5)] == PARTITION_KEYS


SHARD_KEYS = ["000000000000000f", "000000010000015c"]
PARTITION_KEYS = ["000000000000000e", "0000000100000077", "0000000500000021"]
