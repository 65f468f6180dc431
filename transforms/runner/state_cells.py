"""The Beam state cells of a shard, and a decorator that hands them to a method.

Beam passes one argument per state cell, as declared in the method's signature. A shard has 31
cells, so a method declares one argument `cells`, and the decorator shows Beam a signature with all
of them. Ids are a contract with every checkpoint and savepoint: they are never changed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, StateSpec

from streamgauge.models.state.cells import Cells

EPOCH_ID = "epoch"
# A runner reads a cell in one piece; Flink holds it in the TaskManager's heap twice. With these
# numbers of cells a shard of half a million entities of 3 kB fits into 736 MB of heap, that of the
# local cluster: 190 MB in each of a generation's eight snapshot cells, 210 MB in a log cell
# (`models.state.log`). More cells would cost each bundle 3 µs per cell and shard.
SNAPSHOT_IDS = (
    "snapshot-0", "snapshot-1", "snapshot-2", "snapshot-3",
    "snapshot-4", "snapshot-5", "snapshot-6", "snapshot-7",
    "snapshot-8", "snapshot-9", "snapshot-10", "snapshot-11",
    "snapshot-12", "snapshot-13", "snapshot-14", "snapshot-15",
)  # fmt: skip
LOG_IDS = (
    "log-0", "log-1", "log-2", "log-3", "log-4", "log-5",
    "log-6", "log-7", "log-8", "log-9", "log-10", "log-11",
)  # fmt: skip
HELD_ID = "held"
DRIFT_ID = "drift"

SNAPSHOT_CELLS, LOG_CELLS = len(SNAPSHOT_IDS), len(LOG_IDS)

_SPECS: tuple[StateSpec, ...] = (
    ReadModifyWriteStateSpec(EPOCH_ID, BytesCoder()),
    *(BagStateSpec(name, BytesCoder()) for name in SNAPSHOT_IDS),
    *(BagStateSpec(name, BytesCoder()) for name in LOG_IDS),
    BagStateSpec(HELD_ID, BytesCoder()),
    ReadModifyWriteStateSpec(DRIFT_ID, BytesCoder()),
)
#: Parameter of the shown signature -> the state cell that Beam passes for it.
_PARAMETERS = {f"cell_{index}": spec for index, spec in enumerate(_SPECS)}


def cells_of(epoch: Any, *others: Any) -> Cells:
    """The cells that Beam passed, in the order of `_SPECS`, as one object."""
    *bags, held, drift = others
    return Cells(
        epoch=epoch,
        snapshot=tuple(bags[:SNAPSHOT_CELLS]),
        log=tuple(bags[SNAPSHOT_CELLS:]),
        held=held,
        drift=drift,
    )


def with_cells(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let `method` of a DoFn declare the keyword argument `cells` for the shard's state cells."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Beam 2.70 passes state to `process` by position and to timer callbacks by keyword.
        by_name = [kwargs.pop(name) for name in _PARAMETERS if name in kwargs]
        if by_name:
            return method(self, *args, **kwargs, cells=cells_of(*by_name))
        declared, passed = args[: -len(_SPECS)], args[-len(_SPECS) :]
        return method(self, *declared, **kwargs, cells=cells_of(*passed))

    wrapper.__signature__ = _signature_for_beam(method)  # type: ignore[attr-defined]
    return wrapper


def _signature_for_beam(method: Callable[..., Any]) -> inspect.Signature:
    """The signature of `method` with one parameter per state cell in place of `cells`."""
    signature = inspect.signature(method)
    declared = [p for name, p in signature.parameters.items() if name != "cells"]
    states = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=beam.DoFn.StateParam(spec),
        )
        for name, spec in _PARAMETERS.items()
    ]
    return signature.replace(parameters=[*declared, *states])
