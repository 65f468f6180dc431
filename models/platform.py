"""Names the numeric kernels of this machine: where equal, equal bits are promised."""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
from importlib import import_module

import numpy as np


def signature() -> str:
    """Machine, numpy, BLAS core and vector extensions: all that chooses a kernel.

    Two processes with the same signature give the same bits for the same calls. The BLAS
    core is asked of the library that numpy loaded; other BLAS builds answer "unknown".
    """
    vector = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[index]
    extensions = hashlib.sha256(json.dumps(vector, sort_keys=True).encode()).hexdigest()[:8]
    return f"{platform.machine()}/numpy-{np.__version__}/{_blas_core()}/{extensions}"


def _blas_core() -> str:
    """The kernel family OpenBLAS picked at load time, such as "SkylakeX"."""
    library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    for name in ("scipy_openblas_get_corename64_", "openblas_get_corename"):
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = ctypes.c_char_p
            return function().decode()
    return "unknown"
