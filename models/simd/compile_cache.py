"""What compiled code is made of: the version under which numba keeps it on disk.

numba compiles a function when it is first called, which takes seconds, and keeps the result
beside its module. It asks whether that module has changed, and never whether one that is
called from it has: after an upgrade old and new arithmetic could meet. So what is kept is
named after the sources of all modules that are compiled.
"""

from __future__ import annotations

import inspect
import zlib

from streamgauge.models.alerts import budget, decision, policy
from streamgauge.models.kernel import buffers, step
from streamgauge.models.simd import functions, matmul, prefetch, vectors
from streamgauge.models.state import entity_row


def sources(*more: str) -> int:
    """A checksum over the sources of all compiled modules, and `more`."""
    modules = (
        policy,
        budget,
        functions,
        decision,
        step,
        prefetch,
        matmul,
        entity_row,
        vectors,
        buffers,
    )
    texts = (*(inspect.getsource(module) for module in modules), *more)
    return zlib.crc32("\0".join(texts).encode())
