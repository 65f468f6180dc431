"""The gate before a speed counts: scores must equal those of an offline replay per entity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.load import Load
from bench.topics import Scored
from streamgauge.models.artifacts.artifact import Artifact

RELATIVE_ERROR_MAX = 1e-4
SAMPLED_ENTITIES = 50


class WrongScoresError(Exception):
    """The scores of a run are not those of the replay, or some are missing."""


def weights_of(artifact: Artifact) -> dict[str, np.ndarray]:
    """GRU and head of an artifact under the names that the peers read."""
    given = artifact.forecaster.weights
    names = {f"{kind}_{side}": f"gru.{kind}_{side}" for kind in ("weight", "bias")
             for side in ("ih", "hh")}  # fmt: skip
    names |= {"head_weight": "mean.weight", "head_bias": "mean.bias"}
    return {name: given[source] for name, source in names.items()}


def save_weights(artifact: Artifact, path: Path) -> dict[str, np.ndarray]:
    """Write them for the peers and return them."""
    weights = weights_of(artifact)
    np.savez(path, allow_pickle=False, **weights)
    return weights


def expected(weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Scores (T,) of one entity's events (T, F): float64, the equations as published."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    hidden = np.zeros(w["weight_hh"].shape[1])
    scores = []
    for event in x.astype(np.float64):
        scores.append(np.mean((event - w["head_weight"] @ hidden - w["head_bias"]) ** 2))
        r_in, z_in, n_in = np.split(w["weight_ih"] @ event + w["bias_ih"], 3)
        r_rec, z_rec, n_rec = np.split(w["weight_hh"] @ hidden + w["bias_hh"], 3)
        reset, update = _sigmoid(r_in + r_rec), _sigmoid(z_in + z_rec)
        new = np.tanh(n_in + reset * n_rec)
        hidden = (1 - update) * new + update * hidden
    return np.array(scores)


def check(load: Load, scored: Scored, weights: Mapping[str, np.ndarray], is_whole: bool) -> None:
    """Check that every event was scored once and that sampled entities equal the replay.

    Raises:
        WrongScoresError: they are not.
    """
    numbers = check_all_scored(load, scored, is_whole)
    found = np.full(load.events, np.nan)
    found[numbers] = scored.score
    for entity in load.entity[numbers[:: max(1, len(numbers) // SAMPLED_ENTITIES)]]:
        events = np.flatnonzero(load.entity == entity)[:1_000]
        events = events[~np.isnan(found[events])]
        wanted = expected(weights, load.features(events))
        error = np.abs(found[events] - wanted) / np.maximum(wanted, 1e-9)
        if error.max() > RELATIVE_ERROR_MAX:
            at = int(error.argmax())
            raise WrongScoresError(
                f"{load.names[entity]}, its event {at}: the score must be {wanted[at]:.6f} as "
                f"offline; it is {found[events][at]:.6f}"
            )


def check_all_scored(load: Load, scored: Scored, is_whole: bool) -> np.ndarray:
    """The numbers of the scored events, each at most once; all of them if the run was whole."""
    numbers = load.number(scored.time_us)
    distinct = len(np.unique(numbers))
    if distinct != len(numbers) or (is_whole and distinct != load.events):
        raise WrongScoresError(
            f"{load.events} events must be scored once each; "
            f"{distinct} were, in {len(numbers)} scores"
        )
    return numbers


def check_equal(scored: Scored, wanted: Mapping[int, float]) -> None:
    """Check that streamgauge's scores are bit-equal to those of its offline scorer.

    Events that a run had not reached when it was cut off are left out.

    Raises:
        WrongScoresError: a score differs.
    """
    _, at, which = np.intersect1d(
        scored.time_us, np.array(list(wanted)), assume_unique=True, return_indices=True
    )
    offline = np.array(list(wanted.values()))[which]
    if not len(at):
        raise WrongScoresError("no event that was scored offline was scored live")
    differ = np.flatnonzero(scored.score[at] != offline)
    if len(differ):
        one = int(differ[0])
        raise WrongScoresError(
            f"event at {scored.time_us[at[one]]} us: the score must be {offline[one]!r} as "
            f"offline; it is {scored.score[at[one]]!r} ({len(differ)} of {len(offline)} differ)"
        )


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))
