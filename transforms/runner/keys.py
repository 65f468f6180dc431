"""Beam keys that spread evenly over Flink's key groups.

Flink hashes an encoded key into one of `max_parallelism` key groups and assigns each subtask a
range of groups. A few plain keys are spread unevenly: four keys went 1:3 to two subtasks. So each
key contains a salt, chosen so that shard i of n falls into the middle of the i-th of n equal
slices of the groups. Other runners ignore the salt.
"""

from __future__ import annotations

import struct
from functools import lru_cache

_KEY = struct.Struct(">II")
KEY_BYTES_MAX = 14  # with its length prefix it fits into one block of the hash
_U32, _U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F  # MurmurHash3 x64 128


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
    """The key of a partition; it does not change when a topic gets more partitions.

    The group follows the van der Corput sequence (0, 1/2, 1/4, 3/4, 1/8, ...): every prefix of
    that sequence is spread evenly.
    """
    fraction, step = 0.0, 0.5
    bits = partition
    while bits:
        fraction += step * (bits & 1)
        bits >>= 1
        step /= 2
    return _salted(partition, int(fraction * max_parallelism), max_parallelism)


def _salted(slot: int, group: int, max_parallelism: int) -> bytes:
    """The key of `slot` with the smallest salt that puts it into `group`."""
    salt = 0
    while key_group(_KEY.pack(slot, salt), max_parallelism) != group:
        salt += 1
    return _KEY.pack(slot, salt)


def slot_of(key: bytes) -> int:
    """The shard or partition that a key identifies."""
    return int(_KEY.unpack(key)[0])


def key_group(key: bytes, max_parallelism: int) -> int:
    """The key group that portable Flink (Beam 2.70, Flink 1.19) assigns to a key of bytes.

    Beam hashes the encoded key, its length and its bytes, with Guava's `murmur3_128`
    (`FlinkKey.hashCode`); Flink mixes that once more and takes it modulo
    `max_parallelism` (`KeyGroupRangeAssignment`).
    """
    if len(key) > KEY_BYTES_MAX:
        raise ValueError(f"key must have at most {KEY_BYTES_MAX} bytes; got {len(key)}")
    return _flink_murmur(_murmur3_128(bytes([len(key)]) + key)) % max_parallelism


def _murmur3_128(data: bytes) -> int:
    """The low 32 bits of MurmurHash3 x64 128, for less than 16 bytes of data."""
    block = data.ljust(16, b"\0")
    k1, k2 = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")
    h1 = _rotate(k1 * _C1 & _U64, 31, 64) * _C2 & _U64
    h2 = _rotate(k2 * _C2 & _U64, 33, 64) * _C1 & _U64
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = h1 + h2 & _U64
    h2 = h2 + h1 & _U64
    return _mix(h1) + _mix(h2) & _U32


def _mix(k: int) -> int:
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & _U64
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & _U64
    return k ^ k >> 33


def _flink_murmur(code: int) -> int:
    """`MathUtils.murmurHash` of Flink: MurmurHash3's 32-bit mix of one int, never negative."""
    code = _rotate(code * 0xCC9E2D51 & _U32, 15, 32) * 0x1B873593 & _U32
    code = (_rotate(code, 13, 32) * 5 + 0xE6546B64 & _U32) ^ 4
    code = (code ^ code >> 16) * 0x85EBCA6B & _U32
    code = (code ^ code >> 13) * 0xC2B2AE35 & _U32
    code ^= code >> 16
    return code if code < 1 << 31 else ((1 << 32) - code) % (1 << 31)


def _rotate(x: int, by: int, bits: int) -> int:
    return (x << by | x >> bits - by) & (1 << bits) - 1
