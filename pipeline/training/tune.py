"""`streamgauge tune`: search settings without test data, then train with the best of them.

The held-out part of every series, the last in time, is cut in two: the first half stops a
trial's training and prunes it, the second half, which took no part in it, judges it. The
study is a SQLite file; called again, the search goes on where it was, and gives what an
undisturbed one would have given: each trial draws from the seed and from how many came
before it. One process at a time works on a study.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study, Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from streamgauge.models.errors import ConfigError, TrainingError
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.training import fit
from streamgauge.models.training.fit import Prepared
from streamgauge.models.training.trainer import SEED_MAX, Sequences, Trainer, TrainingSettings
from streamgauge.pipeline.console.progress import Advance, Narrate, progress, to_stderr
from streamgauge.pipeline.data.datasets import load
from streamgauge.pipeline.training.search_space import SPACE, Choice
from streamgauge.pipeline.training.study import ERROR, PLACE, finished, opened
from streamgauge.pipeline.training.train import (
    STEPS_PER_EPOCH,
    check_held_out,
    check_out,
    held_out_pieces,
    learned_pieces,
    train,
    within_epoch,
)

RANDOM_TRIALS = 8  # before that many, a model of the space would know nothing
PRUNED_FROM_TRIAL, PRUNED_FROM_EPOCH = 4, 3  # earlier the learning rate still rises
BEST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to search, and around which settings."""

    #: In the study altogether, those of earlier calls included.
    trials: int = 20
    #: No trial begins later in this call; None for no such limit.
    minutes: float | None = None
    #: What is not searched: epochs, seed, held-out share.
    settings: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"tune: trials must be >= 1; got {self.trials}")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"tune: minutes must be > 0; got {self.minutes}")
        for name, space in SPACE.items():
            if (value := getattr(self.settings, name)) not in space:
                raise ConfigError(f"tune: {name} must be {space}; got {value}")


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    study: str
    #: In the order in which they began; without those that were interrupted.
    trials: tuple[FrozenTrial, ...]
    base: TrainingSettings

    @property
    def ranking(self) -> list[FrozenTrial]:
        """Trials that were judged, best first."""
        judged = [one for one in self.trials if one.state == TrialState.COMPLETE]
        return sorted(judged, key=lambda one: (one.value, one.user_attrs[PLACE]))

    @property
    def settings(self) -> TrainingSettings:
        """The best ones."""
        return replace(self.base, **self.ranking[0].params)

    def record(self) -> dict[str, Any]:
        """For the manifest of the artifact."""
        best, first = self.ranking[0], self.trials[0]
        states = [one.state for one in self.trials]
        return {
            "study": self.study,
            "seed": self.base.seed,
            "trials": len(self.trials),
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
            "best_trial": best.user_attrs[PLACE],
            "loss": best.value,
            "loss_of_first": first.value,
        }

    def lines(self) -> list[str]:
        """The best trials as a table."""
        head = ["trial", "loss", "epochs", *SPACE]
        rows = [
            [str(one.user_attrs[PLACE]), f"{one.value:.4f}", str(len(one.intermediate_values))]
            + [f"{one.params[name]:.4g}" for name in SPACE]
            for one in self.ranking[:BEST_SHOWN]
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        return [
            "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
            for row in (head, *rows)
        ]


def tune(
    data: Path,
    out: Path,
    study: Path,
    plan: Plan,
    narrate: Narrate = to_stderr,
    log_dir: Path | None = None,
) -> Found:
    """Search on the train part of `data`, then train the artifact `out` with what was best.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`; its test part is not read.
        out: directory of the artifact; an artifact already there is replaced.
        study: SQLite file, made or gone on with.
        plan: how long, and around what.
        narrate: gets one line per trial, and those of the training.
        log_dir: of the final training, see `pipeline.train.train`.

    Raises:
        ConfigError: data, `out` or study are not usable, or the study is of other settings.
        TrainingError: no trial could be trained to its end.
    """
    check_out(out)
    dataset = load(data, "train")
    base = plan.settings
    spec = ForecasterSpec(hidden=base.hidden, lags=base.lags)
    prepared = fit.prepare(dataset.schema, dataset.series, spec, base.held_out)
    check_held_out(prepared)
    with opened(study, dataset, base) as one:
        narrate(f"tune: study {one.study_name} in {study}, {len(finished(one))} trials there")
        _search(one, prepared, plan, narrate)
        found = Found(one.study_name, tuple(finished(one)), base)
    if not found.ranking:
        raise TrainingError(
            f"tune: needs a trial that ends; all {len(found.trials)} failed, the last with: "
            f"{found.trials[-1].user_attrs[ERROR]}"
        )
    train(data, out, found.settings, narrate, log_dir=log_dir, search=found.record())
    return found


def _search(study: Study, prepared: Prepared, plan: Plan, narrate: Narrate) -> None:
    """Run trials until there are enough or time is over; the first has the given settings."""
    end = None if plan.minutes is None else time.monotonic() + 60 * plan.minutes
    steps = plan.settings.epochs * STEPS_PER_EPOCH
    halves = _halves(prepared)
    study.pruner = MedianPruner(PRUNED_FROM_TRIAL, PRUNED_FROM_EPOCH)
    with progress("tune", plan.trials * steps, narrate, unit="steps") as advance:
        place = len(finished(study))
        advance(place * steps)
        while place < plan.trials:
            if place and end is not None and time.monotonic() > end:
                narrate(f"tune: time is over after {place} of {plan.trials} trials")
                return
            trial = _ask(study, place, plan.settings)
            _run(study, trial, prepared, halves, plan.settings, advance)
            place += 1
            narrate(_told(finished(study), plan.trials))


def _ask(study: Study, place: int, base: TrainingSettings) -> Trial:
    """A trial whose settings follow from the seed and the trials before it."""
    seed = (base.seed * 100_003 + place) % (SEED_MAX + 1)
    study.sampler = TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    if not place and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({name: getattr(base, name) for name in SPACE})
    trial = study.ask(_distributions())
    trial.set_user_attr(PLACE, place + 1)
    return trial


def _run(
    study: Study,
    trial: Trial,
    prepared: Prepared,
    halves: tuple[_Half, _Half],
    base: TrainingSettings,
    advance: Advance,
) -> None:
    """Train with the trial's settings and judge what came of it, or prune it."""
    settings = replace(base, **trial.params)
    stopping, judging = (_pieces(half, settings) for half in halves)
    trainer = Trainer(settings, learned_pieces(prepared, settings), stopping)
    try:
        while not trainer.is_done:
            trainer.run_epoch(within_epoch(advance))
            trial.report(trainer.progress.history[-1][1], trainer.progress.epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, trainer.best_loss_on(judging))
    except TrainingError as error:  # of these settings; others may do
        trial.set_user_attr(ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
    advance((settings.epochs - trainer.progress.epoch) * STEPS_PER_EPOCH)


@dataclass(frozen=True, slots=True, eq=False)
class _Half:
    """One half in time of every held-out part."""

    z: Sequence[np.ndarray]
    linear: Sequence[np.ndarray]


def _halves(prepared: Prepared) -> tuple[_Half, _Half]:
    """The earlier halves, which stop trainings, and the later ones, which judge them."""
    parts = (prepared.held_out_z, prepared.held_out_linear)
    earlier = ([one[: len(one) // 2] for one in part] for part in parts)
    later = ([one[len(one) // 2 :] for one in part] for part in parts)
    return _Half(*earlier), _Half(*later)


def _pieces(half: _Half, settings: TrainingSettings) -> Sequences:
    return held_out_pieces(half.z, half.linear, settings, 0.5)


def _distributions() -> dict[str, BaseDistribution]:
    """The search space in Optuna's terms."""
    return {
        name: CategoricalDistribution(space.values)
        if isinstance(space, Choice)
        else FloatDistribution(space.low, space.high, log=space.is_log)
        for name, space in SPACE.items()
    }


def _told(ended: Sequence[FrozenTrial], trials: int) -> str:
    """One line about the trial that ended last."""
    trial = ended[-1]
    losses = [one.value for one in ended if one.value is not None]
    words = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    epochs = len(trial.intermediate_values)
    outcome = {
        TrialState.COMPLETE: f"loss {losses[-1]:.4f}, best {min(losses):.4f}," if losses else "",
        TrialState.PRUNED: "pruned",
    }.get(trial.state, "failed")
    return (
        f"tune: trial {trial.user_attrs[PLACE]} of {trials}: {outcome} after {epochs} epochs "
        f"({words})"
    )
