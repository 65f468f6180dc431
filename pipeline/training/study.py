"""The file of a search: a SQLite file with one Optuna study per data set."""

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

#: Attributes of a trial: its number among the finished trials, and the reason of a failure.
NUMBER, ERROR = "number", "error"
IDENTITY = "identity"
HASH_DIGITS = 12  # of the data hash in the name of a study


@contextmanager
def opened(path: Path, dataset: Dataset, base: TrainingSettings) -> Iterator[Study]:
    """Create or resume the study of a data set; the file is closed at the end of the context.

    Trials that were interrupted are marked as failed. One process at a time may use the file.

    Raises:
        ConfigError: the file is no study, is in use, or was made with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # our own lines report the same
    with _locked(path):
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
                f"tune: {path} must be a study of this command, or not exist; "
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
    """The trials that were completed, pruned or failed, in their order; not interrupted ones."""
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs
    ]
    return sorted(trials, key=lambda trial: int(trial.user_attrs[NUMBER]))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on `<path>.lock`; the kernel releases it when the process ends."""
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
    """Refuse a study with other fixed settings: its trials would not be comparable."""
    fixed = {name: value for name, value in asdict(base).items() if name not in SPACE}
    current: dict[str, Any] = {"data": dataset.content_hash, "space": in_words(), **fixed}
    current |= {f"first {name}": value for name, value in asdict(base).items() if name in SPACE}
    current = json.loads(json.dumps(current))
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        study.set_user_attr(IDENTITY, current)
    elif stored != current:
        differing = ", ".join(
            f"{name} was {stored.get(name)!r}, now {current.get(name)!r}"
            for name in sorted(set(stored) | set(current))
            if stored.get(name) != current.get(name)
        )
        raise ConfigError(
            f"tune: study {study.study_name} in {path} was made with other settings: "
            f"{differing}; use another file"
        )


def _close(storage: RDBStorage | None) -> None:
    """Close the file; otherwise the garbage collector would close the connections."""
    if storage is not None:
        storage.remove_session()
        storage.engine.dispose()
