"""Beam keys that spread evenly over Flink's key groups.

Flink hashes the encoded key into one of `max_parallelism` key groups and gives each
subtask a range of groups. A handful of plain keys falls unevenly (four keys went 1:3
to two subtasks), so each key carries a salt, chosen so that shard i of n lands in the
middle of the i-th of n equal slices of the groups. Other runners ignore the salt.
"""

from __future__ import annotations

import struct
from functools import lru_cache

_KEY = struct.Struct(">II")


@lru_cache(maxsize=64)
def shard_keys(shards: int, max_parallelism: int) -> tuple[bytes, ...]:
    """Keys of shards 0 to `shards` - 1, each 8 bytes: slot and salt.

    >>> [slot_of(key) for key in shard_keys(3, 128)]
    [0, 1, 2]
    """
    groups = ((2 * i + 1) * max_parallelism // (2 * shards) for i in range(shards))
    return tuple(_salted(i, group, max_parallelism) for i, group in enumerate(groups))


@lru_cache(maxsize=65_536)
def partition_key(partition: int, max_parallelism: int) -> bytes:
    """The key of a partition; it must not change when a topic gets more partitions.

    So the group comes from the van der Corput sequence (1/2, 1/4, 3/4, 1/8, ...), of
    which every prefix is spread evenly.
    """
    place, step = 0.0, 0.5
    rest = partition
    while rest:
        place += step * (rest & 1)
        rest >>= 1
        step /= 2
    return _salted(partition, int(place * max_parallelism), max_parallelism)


def _salted(slot: int, group: int, max_parallelism: int) -> bytes:
    salt = 0
    while key_group(_KEY.pack(slot, salt), max_parallelism) != group:
        salt += 1
    return _KEY.pack(slot, salt)


def slot_of(key: bytes) -> int:
    """The shard or partition that a key stands for."""
    return _KEY.unpack(key)[0]


def key_group(key: bytes, max_parallelism: int) -> int:
    """The key group that portable Flink gives to a key of `bytes`.

    Beam wraps the nested encoding (length, then bytes) in a `ByteBuffer`; Flink takes
    murmur of its `hashCode` modulo `max_parallelism` (`KeyGroupRangeAssignment`).
    """
    if len(key) >= 128:
        raise ValueError(f"key must be shorter than 128 bytes; got {len(key)}")
    code = 1
    for byte in reversed(bytes([len(key)]) + key):
        signed = byte - 256 if byte > 127 else byte
        code = (31 * code + signed) & 0xFFFFFFFF
    return _murmur(code) % max_parallelism


def _murmur(code: int) -> int:
    """`MathUtils.murmurHash` of Flink: MurmurHash3's 32-bit mix of one int, made positive."""
    code = (code * 0xCC9E2D51) & 0xFFFFFFFF
    code = ((code << 15) | (code >> 17)) & 0xFFFFFFFF
    code = (code * 0x1B873593) & 0xFFFFFFFF
    code = ((code << 13) | (code >> 19)) & 0xFFFFFFFF
    code = (code * 5 + 0xE6546B64) & 0xFFFFFFFF
    code ^= 4
    code ^= code >> 16
    code = (code * 0x85EBCA6B) & 0xFFFFFFFF
    code ^= code >> 13
    code = (code * 0xC2B2AE35) & 0xFFFFFFFF
    code ^= code >> 16
    signed = code - (1 << 32) if code >> 31 else code
    if signed >= 0:
        return signed
    return -signed if signed != -(1 << 31) else 0
