"""The file of a search: an Optuna study in SQLite, one per data set, settings checked."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from streamgauge.models.errors import ConfigError
from streamgauge.models.training.trainer import TrainingSettings
from streamgauge.pipeline.data.datasets import Dataset
from streamgauge.pipeline.training.search_space import SPACE, in_words

#: Keys of what is noted beside a trial: its place among those that ended, why it failed.
PLACE, ERROR = "place", "error"
IDENTITY = "identity"
HASH_DIGITS = 12  # of the data's hash in the name: one file may hold many studies


@contextmanager
def opened(path: Path, dataset: Dataset, base: TrainingSettings) -> Iterator[Study]:
    """Make or go on with the study of a data set; closes the file in the end.

    Trials that were interrupted are marked as such, so nobody else may be at work on it.

    Raises:
        ConfigError: the file is no study, is in use, or was made with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it says is said in our words
    with _alone(path):
        storage = None
        try:
            storage = RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())
            study = optuna.create_study(
                storage=storage,
                study_name=f"{dataset.name}-{dataset.content_hash[:HASH_DIGITS]}",
                load_if_exists=True,
                direction="minimize",
            )
        except (SQLAlchemyError, OptunaError, RuntimeError) as error:
            _close(storage)
            raise ConfigError(
                f"tune: {path} must be a study that this command made, or not be there; "
                f"got {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        try:
            _check_identity(study, path, dataset, base)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
            yield study
        finally:
            _close(storage)


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that came to an end of their own, in their order; interrupted ones did not."""
    ended = [
        one
        for one in study.get_trials(deepcopy=False)
        if one.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in one.user_attrs
    ]
    return sorted(ended, key=lambda one: int(one.user_attrs[PLACE]))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` while the study is open; the kernel lets go of it with the process."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise ConfigError(
            f"tune: {path.parent} must be a folder that can be written; got {error.strerror}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"tune: {path} is in use by another search; wait for it") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _check_identity(study: Study, path: Path, dataset: Dataset, base: TrainingSettings) -> None:
    """Trials are comparable only if all but what is searched is equal."""
    fixed = {name: value for name, value in asdict(base).items() if name not in SPACE}
    here: dict[str, Any] = {"data": dataset.content_hash, "space": in_words(), **fixed}
    here |= {f"first {name}": value for name, value in asdict(base).items() if name in SPACE}
    here = json.loads(json.dumps(here))
    there = study.user_attrs.get(IDENTITY)
    if there is None:
        study.set_user_attr(IDENTITY, here)
    elif there != here:
        differing = ", ".join(
            f"{name} was {there.get(name)!r}, now {here.get(name)!r}"
            for name in sorted(set(there) | set(here))
            if there.get(name) != here.get(name)
        )
        raise ConfigError(
            f"tune: study {study.study_name} in {path} was made with other settings: "
            f"{differing}; name another file"
        )


def _close(storage: RDBStorage | None) -> None:
    """Let go of the file; connections would else be closed by the garbage collector."""
    if storage is not None:
        storage.remove_session()
        storage.engine.dispose()
