"""Lets a test end a Python worker in the middle of a bundle.

Python imports this module at the start of every process that has its folder on the path:
the processes of a worker pool that a test has started with this folder. While the file `TRIGGER`
is in the cluster's folder, the worker that scores the next block removes it and ends at once: after
the state was changed, before an output was sent. Nothing in the product depends on this.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "streamgauge.models.scoring.shard"
TRIGGER = "exit-in-bundle"
EXIT_CODE = 70
CLUSTER = os.environ.get("STREAMGAUGE_CLUSTER", "")


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module of the scorer as usual, and changes it after it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def change(module: ModuleType) -> None:
    """Let `ShardScorer.process` end the process after its work while `TRIGGER` exists."""
    process = module.ShardScorer.process
    trigger = Path(CLUSTER) / TRIGGER

    @functools.wraps(process)
    def process_and_exit(*arguments: Any, **named: Any) -> Any:
        outcome = process(*arguments, **named)
        if outcome.scored and trigger.exists():
            try:
                trigger.unlink()
            except FileNotFoundError:  # another worker has removed it
                return outcome
            os._exit(EXIT_CODE)
        return outcome

    module.ShardScorer.process = process_and_exit  # type: ignore[attr-defined]


if CLUSTER:
    sys.meta_path.insert(0, Finder())
