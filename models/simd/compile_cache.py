"""Keeps machine code on disk between processes, under a key of everything that it depends on.

numba compiles a function at its first call, which takes seconds, and can store the result.
It checks the file of that function alone: after an upgrade it would combine the new code of one
module with the old machine code of another. Here each build has a separate folder, named by
a hash of all files that compiled code can take a constant or a function from. A change in any of
them selects an empty folder.

The cache only saves time. Without a writable folder, functions are compiled in each process;
a damaged entry is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import njit
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    UserProvidedCacheLocator,
)

MODELS = Path(__file__).parent.parent
#: Folders of `models/` whose files compiled code is made of (tests/test_architecture.py checks).
COMPILED_ROOMS = ("alerts", "blocks", "drift", "events", "kernel", "scoring", "simd", "state")
#: Builds kept in one cache; the oldest are removed when another one is added.
BUILDS_MAX = 8

_Function = TypeVar("_Function", bound=Callable[..., Any])


def cached_njit(**options: Any) -> Callable[[_Function], _Function]:
    """Decorate a function like `numba.njit(**options)`, and keep its machine code on disk.

    Use it where Python calls compiled code. Functions called only from compiled code need
    `njit` alone, because they become part of their callers.
    """

    def decorate(function: _Function) -> _Function:
        dispatcher: Any = njit(**options)(function)
        if build_folder() is not None and hasattr(dispatcher, "enable_caching"):
            # numba may be unable to cache a function; it is compiled all the same.
            with suppress(OSError, RuntimeError):
                dispatcher._cache = _TolerantCache(function)
        compiled: _Function = dispatcher
        return compiled

    return decorate


def build_key(models: Path = MODELS) -> str:
    """Hash the files of all compiled rooms under `models`: 16 hex digits."""
    digest = hashlib.sha256()
    for room in COMPILED_ROOMS:
        for path in sorted((models / room).glob("*.py")):
            text = path.read_bytes()
            digest.update(f"{room}/{path.name} {len(text)}\n".encode())
            digest.update(text)
    return digest.hexdigest()[:16]


@cache
def build_folder() -> Path | None:
    """Return the folder for machine code of this build; None if there is no usable folder.

    It is in the first usable one of: `streamgauge/` in numba's `NUMBA_CACHE_DIR`,
    `streamgauge/compiled/` in the user's cache folder, and a folder of this user in the
    system's temporary folder.
    """
    try:
        key = build_key()
    except OSError:  # the sources cannot be read, so nothing can vouch for an entry
        return None
    for parent in (_configured(), _user_cache(), _temporary()):
        if parent is not None and _is_usable(parent / key):
            _remove_old_builds(parent)
            return parent / key
    return None


def _configured() -> Path | None:
    return Path(numba.config.CACHE_DIR) / "streamgauge" if numba.config.CACHE_DIR else None


def _user_cache() -> Path | None:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not named.is_absolute():  # the XDG specification says to ignore relative paths
        named = Path(os.path.expanduser("~/.cache"))
    return named / "streamgauge" / "compiled" if named.is_absolute() else None


def _temporary() -> Path | None:
    """Return this user's folder in the temporary folder; None if another user made it.

    Entries are pickles: loading one that another user wrote would run that user's code.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"streamgauge-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    is_private = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if is_private and not folder.is_symlink() else None


def _is_usable(folder: Path) -> bool:
    """Whether entries can be written to a folder, or were there before it became read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return _has_entries(folder)
    return True


def _has_entries(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:  # there is no such folder, or it cannot be read
        return False


def _remove_old_builds(parent: Path) -> None:
    """Remove all but the `BUILDS_MAX` builds that were written last."""

    def written(folder: Path) -> float:
        try:
            return folder.stat().st_mtime
        except OSError:  # another process removed it
            return 0.0

    builds = sorted(parent.glob("[0-9a-f]" * 16), key=written)
    for folder in builds[:-BUILDS_MAX]:
        shutil.rmtree(folder, ignore_errors=True)


class _Locator(UserProvidedCacheLocator):
    """Places the entries of one module in the folder of this build."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        super().__init__(function, path)
        self._cache_path = str((build_folder() or Path()) / function.__module__)

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator:
        return cls(function, path)


class _Entries(CompileResultCacheImpl):
    """Compiled functions, in the folder of this build."""

    _locator_classes = (_Locator,)


class _TolerantCache(FunctionCache):
    """A cache in which an entry that cannot be read or written counts as absent."""

    _impl_class = _Entries

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except Exception:  # noqa: BLE001  unpickling damaged bytes may raise anything
            self._forget()
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            super().save_overload(signature, compiled)
        except Exception:  # noqa: BLE001  a full disk, or an index damaged since it was read
            self._forget()

    def _forget(self) -> None:
        """Empty the index, so that the next process can store entries again."""
        try:
            self.flush()
        except OSError:
            self.disable()
