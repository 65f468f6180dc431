"""The state cells of a shard as Beam knows them, and how a method asks for all of them.

Beam hands a method one argument per cell, found in its signature. A shard has many, so a
method asks for `cells`, and Beam is shown a signature with all of them. Names are part of
the state: they are never changed.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, StateSpec

from streamgauge.models.state.cells import Cells

#: A cell is read in one piece, which is in the TaskManager's heap twice: these are so many that
#: a shard of half a million entities of 3 kB fits into the heap of our clusters, 736 MB: 190 MB
#: in each of a generation's eight cells, 210 MB in one of the log (`models.state.log`). More
#: would cost each bundle: 3 µs per cell and shard.
SNAPSHOT_CELLS = 2 * 8
LOG_CELLS = 12

_EPOCH = ReadModifyWriteStateSpec("epoch", BytesCoder())
_SNAPSHOT = [BagStateSpec(f"snapshot-{i}", BytesCoder()) for i in range(SNAPSHOT_CELLS)]
_LOG = [BagStateSpec(f"log-{i}", BytesCoder()) for i in range(LOG_CELLS)]
_HELD = BagStateSpec("held", BytesCoder())
_DRIFT = ReadModifyWriteStateSpec("drift", BytesCoder())
_SPECS: dict[str, StateSpec] = {
    f"cell_{at}": spec for at, spec in enumerate((_EPOCH, *_SNAPSHOT, *_LOG, _HELD, _DRIFT))
}


def cells_of(epoch: Any, *others: Any) -> Cells:
    """Sort the cells that Beam handed over, in the order of their specifications."""
    *bags, held, drift = others
    return Cells(epoch, tuple(bags[:SNAPSHOT_CELLS]), tuple(bags[SNAPSHOT_CELLS:]), held, drift)


def with_cells(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let `method` of a DoFn take the shard's `cells` as its last argument, by name."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Beam passes arguments of `process` by place and those of timers by name.
        named = [kwargs.pop(name) for name in _SPECS if name in kwargs]
        own = args if named else args[: -len(_SPECS)]
        return method(self, *own, **kwargs, cells=cells_of(*(named or args[-len(_SPECS) :])))

    shown = inspect.signature(method)
    kept = [one for name, one in shown.parameters.items() if name != "cells"]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [
        inspect.Parameter(name, kind, default=beam.DoFn.StateParam(spec))
        for name, spec in _SPECS.items()
    ]
    called.__signature__ = shown.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    return called
