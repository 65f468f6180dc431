"""`streamgauge tune`: searches settings without test data, then trains with the best ones.

The held-out part of every series is its last part in time. Its first half stops and prunes the
training of a trial. Its second half, which the training never sees, gives the loss of the trial.
The study is a SQLite file, and a search can be resumed. A resumed search gives the same trials
as an uninterrupted one, because the settings of a trial depend only on the seed and on the
trials before it. One process at a time works on a study.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
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
from streamgauge.pipeline.training.study import ERROR, NUMBER, finished, opened
from streamgauge.pipeline.training.train import (
    STEPS_PER_EPOCH,
    check_held_out,
    check_out,
    held_out_pieces,
    learned_pieces,
    train,
    within_epoch,
)

RANDOM_TRIALS = 8  # with fewer trials a model of the space would be useless
PRUNED_FROM_TRIAL, PRUNED_FROM_EPOCH = 4, 3  # in earlier epochs the learning rate still rises
BEST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a search, and its fixed settings."""

    #: Total trials of the study, earlier calls included.
    trials: int = 20
    #: Start no trial after this time, minutes; None for no limit.
    minutes: float | None = None
    #: Settings of the first trial; all trials have its epochs, seed and held-out share.
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
class SearchResult:
    """The result of a search."""

    study: str
    #: In the order of their start, without interrupted ones.
    trials: tuple[FrozenTrial, ...]
    base: TrainingSettings

    @property
    def ranking(self) -> list[FrozenTrial]:
        """The completed trials, the best first."""
        completed = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return sorted(completed, key=lambda trial: (trial.value, trial.user_attrs[NUMBER]))

    @property
    def settings(self) -> TrainingSettings:
        """The settings of the best trial."""
        return replace(self.base, **self.ranking[0].params)

    def record(self) -> dict[str, Any]:
        """The entry for the manifest of the artifact."""
        best, first = self.ranking[0], self.trials[0]
        states = [trial.state for trial in self.trials]
        return {
            "study": self.study,
            "seed": self.base.seed,
            "trials": len(self.trials),
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
            "best_trial": best.user_attrs[NUMBER],
            "loss": best.value,
            "loss_of_first": first.value,
        }

    def lines(self) -> list[str]:
        """The best trials as a table."""
        head = ["trial", "loss", "epochs", *SPACE]
        rows = [
            [
                str(trial.user_attrs[NUMBER]),
                f"{trial.value:.4f}",
                str(len(trial.intermediate_values)),
            ]
            + [f"{trial.params[name]:.4g}" for name in SPACE]
            for trial in self.ranking[:BEST_SHOWN]
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
    *,
    plan: Plan,
    narrate: Narrate = to_stderr,
    log_dir: Path | None = None,
) -> SearchResult:
    """Search on the train part of `data`, then train the artifact `out` with the best settings.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`; its test part is not read.
        out: folder of the artifact; an existing artifact is replaced.
        study: SQLite file, created or resumed.
        plan: extent and fixed settings of the search.
        narrate: receives one line per trial, and the lines of the final training.
        log_dir: of the final training, see `pipeline.training.train.train`.

    Raises:
        ConfigError: data, `out` or study cannot be used, or the study has other settings.
        TrainingError: no trial was completed.
    """
    check_out(out)
    dataset = load(data, "train")
    base = plan.settings
    spec = ForecasterSpec(hidden=base.hidden, lags=base.lags)
    prepared = fit.prepare(dataset.schema, dataset.series, spec, base.held_out)
    check_held_out(prepared)
    with opened(study, dataset, base) as opened_study:
        name, trials = opened_study.study_name, len(finished(opened_study))
        narrate(f"tune: study {name} in {study} has {trials} trials")
        _search(opened_study, prepared, plan, narrate)
        result = SearchResult(name, tuple(finished(opened_study)), base)
    if not result.ranking:
        raise TrainingError(
            f"tune: needs a completed trial; all {len(result.trials)} failed, the last with: "
            f"{result.trials[-1].user_attrs[ERROR]}"
        )
    train(data, out, result.settings, narrate, log_dir=log_dir, search=result.record())
    return result


def _search(study: Study, prepared: Prepared, plan: Plan, narrate: Narrate) -> None:
    """Run trials until the plan is fulfilled; the first trial has the settings of the plan."""
    end = None if plan.minutes is None else time.monotonic() + 60 * plan.minutes
    steps = plan.settings.epochs * STEPS_PER_EPOCH
    halves = _halves(prepared)
    study.pruner = MedianPruner(PRUNED_FROM_TRIAL, PRUNED_FROM_EPOCH)
    with progress("tune", plan.trials * steps, narrate, unit="steps") as advance:
        done = len(finished(study))
        advance(done * steps)
        while done < plan.trials:
            if done and end is not None and time.monotonic() > end:
                narrate(f"tune: time limit reached after {done} of {plan.trials} trials")
                return
            trial = _ask(study, done, plan.settings)
            _run(study, trial, prepared, halves=halves, base=plan.settings, advance=advance)
            done += 1
            narrate(_trial_line(finished(study), plan.trials))


def _ask(study: Study, done: int, base: TrainingSettings) -> Trial:
    """A new trial; its settings depend on the seed and on the `done` trials before it."""
    seed = (base.seed * 100_003 + done) % (SEED_MAX + 1)
    study.sampler = TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    if not done and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({name: getattr(base, name) for name in SPACE})
    trial = study.ask(_distributions())
    trial.set_user_attr(NUMBER, done + 1)
    return trial


def _run(
    study: Study,
    trial: Trial,
    prepared: Prepared,
    *,
    halves: tuple[_Half, _Half],
    base: TrainingSettings,
    advance: Advance,
) -> None:
    """Train with the settings of the trial, and record its loss, its pruning or its failure."""
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
    except TrainingError as error:  # other settings may succeed
        trial.set_user_attr(ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
    advance((settings.epochs - trainer.progress.epoch) * STEPS_PER_EPOCH)


@dataclass(frozen=True, slots=True, eq=False)
class _Half:
    """One half of every held-out part."""

    z: Sequence[NDArray[Any]]
    linear: Sequence[NDArray[Any]]


def _halves(prepared: Prepared) -> tuple[_Half, _Half]:
    """The earlier halves, which stop trainings, and the later halves, which give the loss."""
    parts = (prepared.held_out_z, prepared.held_out_linear)
    earlier = ([entity[: len(entity) // 2] for entity in part] for part in parts)
    later = ([entity[len(entity) // 2 :] for entity in part] for part in parts)
    return _Half(*earlier), _Half(*later)


def _pieces(half: _Half, settings: TrainingSettings) -> Sequences:
    return held_out_pieces(half.z, half.linear, settings, share=0.5)


def _distributions() -> dict[str, BaseDistribution]:
    """The search space as Optuna distributions."""
    return {
        name: CategoricalDistribution(space.values)
        if isinstance(space, Choice)
        else FloatDistribution(space.low, space.high, log=space.is_log)
        for name, space in SPACE.items()
    }


def _trial_line(done: Sequence[FrozenTrial], trials: int) -> str:
    """One line of text about the last finished trial."""
    trial = done[-1]
    losses = [trial.value for trial in done if trial.value is not None]
    words = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    epochs = len(trial.intermediate_values)
    outcome = {
        TrialState.COMPLETE: f"loss {losses[-1]:.4f}, best {min(losses):.4f}," if losses else "",
        TrialState.PRUNED: "pruned",
    }.get(trial.state, "failed")
    return (
        f"tune: trial {trial.user_attrs[NUMBER]} of {trials}: {outcome} after {epochs} epochs "
        f"({words})"
    )
