"""Stores the figures of a benchmark as soon as they are measured, so that it can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.summary import ratios

#: Facts that must be equal for figures to be taken over.
SAME = ("commit", "size", "cpu", "cores", "python", "numpy")


class Progress:
    """The results of a bench, written after every figure."""

    def __init__(self, path: Path, about: dict[str, Any], narrate: Callable[[str], None]) -> None:
        self.results: dict[str, Any] = {"about": about}
        self._path = path
        self._say = narrate
        self._began = time.monotonic()
        self._before_minutes = 0.0

    def take_over(self) -> None:
        """Take over the figures of an earlier run of the same commit and size, if there is one."""
        if not self._path.exists():
            return
        earlier = json.loads(self._path.read_text())
        about = self.results["about"]
        differ = [name for name in SAME if earlier["about"].get(name) != about[name]]
        if differ:
            self._say(f"not taken over: the earlier bench has another {', '.join(differ)}")
            return
        self.results = without_failures(earlier)
        self._before_minutes = earlier["about"].get("minutes", 0.0)

    def has(self, *place: str) -> bool:
        """Whether there is a figure at `place`."""
        at = self.results
        for name in place:
            if name not in at:
                return False
            at = at[name]
        return True

    def once(self, work: Callable[[], Any], *place: str) -> Any:
        """The figure stored at `place`; if there is none, the result of `work`, now stored."""
        if self.has(*place):
            self._say(f"taken over: {', '.join(place)}")
            return self.read(*place)
        return self.put(work(), *place)

    def read(self, *place: str) -> Any:
        """The figure at `place`."""
        at = self.results
        for name in place:
            at = at[name]
        return at

    def runs(self, peer: str) -> list[dict[str, Any]]:
        """The runs of a peer in all rounds."""
        return list(self.results.get("runs", {}).get(peer, {}).values())

    def put(self, found: Any, *place: str) -> Any:
        """Store a figure."""
        at = self.results
        for name in place[:-1]:
            at = at.setdefault(name, {})
        at[place[-1]] = found
        self.write()
        return found

    def write(self) -> None:
        """Write all figures and the ratios computed from them, in one step."""
        minutes = self._before_minutes + (time.monotonic() - self._began) / 60
        self.results["about"]["minutes"] = round(minutes, 1)
        if "kernel" in self.results:
            self.results["ratios"], self.results["why_null"] = ratios(self.results)
        staged = self._path.with_suffix(".new")
        staged.write_text(json.dumps(self.results, indent=2) + "\n")
        staged.replace(self._path)


def without_failures(found: Any) -> Any:
    """The figures without entries that are only a reason why there is none."""
    if isinstance(found, dict):
        kept = {name: without_failures(one) for name, one in found.items()}
        return {name: one for name, one in kept.items() if not _is_failure(one)}
    return found


def _is_failure(one: Any) -> bool:
    return isinstance(one, dict) and "reason" in one
