"""Scores rows of big-endian floats from stdin with one model; one line on stdout per row."""

from __future__ import annotations

import array
import sys

from river.anomaly import HalfSpaceTrees


def main() -> None:
    """Features are expected within 0 and 1."""
    features, values = int(sys.argv[1]), array.array("f")
    values.frombytes(sys.stdin.buffer.read())
    if sys.byteorder == "little":
        values.byteswap()
    model = HalfSpaceTrees(seed=0)
    for start in range(0, len(values), features):
        x = dict(enumerate(values[start : start + features]))
        print(model.score_one(x))
        model.learn_one(x)


if __name__ == "__main__":
    main()
