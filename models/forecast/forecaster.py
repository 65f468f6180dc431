"""Forecasts the next event of an entity, and scores the event that arrives.

For each event: standardise it, compare it with the forecast, score it, and only then learn from
it. The forecast is a linear autoregression over the last L events plus the correction of a
GRU (Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder",
in the form of `torch.nn.GRUCell`):

    r  = sigmoid(W_r z + b_r + U_r h + c_r)         linear   = sum over l of a_l z[t - l]
    u  = sigmoid(W_u z + b_u + U_u h + c_u)         forecast = linear + M h + m
    n  = tanh(W_n z + b_n + r * (U_n h + c_n))      sigma    = exp(S h + s)
    h' = n + u * (h - n)

Each feature has two squared residuals, of the forecast and of the linear part alone, each
divided by its running mean square. The smaller of the two counts: a value that either of them
explains is not anomalous. Both follow a level shift, so the squared distance from the
seasonal baseline is added: the usual level of the entity at this time of day, on weekdays
or at weekends. The mean over features is smoothed fast and slowly. The score is the
root of the mean of both.

The arithmetic is in `models.kernel.step`. This module holds the model that it works with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.errors import ArtifactError
from streamgauge.models.events.schema import Schema
from streamgauge.models.forecast.linear import Linear
from streamgauge.models.forecast.normaliser import Priors
from streamgauge.models.forecast.packing import pack_network
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.kernel.batch import BatchResults, score_rows
from streamgauge.models.kernel.buffers import EventGroup, Scratch
from streamgauge.models.state.entity_row import RESIDUALS, Record, floats, heads, row_dtype


@dataclass(frozen=True, slots=True, eq=False)
class ScorePriors:
    """Where residual scales and the smoothed score of an entity start."""

    #: (RESIDUALS, F) float32, for unknown entities.
    scale: NDArray[Any]
    #: (E, RESIDUALS, F) float32, in the order of `Priors.entity_ids`.
    entity_scale: NDArray[Any]
    #: Typical score on normal data.
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The results of one event of each of B entities."""

    #: (B,) float32, smoothed; high is anomalous.
    score: NDArray[Any]
    #: (B, F) float32, contribution of each feature to the unsmoothed score, before the mean.
    parts: NDArray[Any]
    #: (B, F) float32, raw units, the forecast made before the event.
    expected: NDArray[Any]
    #: (B,) float32, negative log-likelihood per observed feature, residuals capped.
    loss: NDArray[Any]
    #: (B,) float32, mean squared step from the previous event, standard units, capped.
    change: NDArray[Any]
    #: (B, RESIDUALS, F) float32, squared residuals before scaling, for training.
    residuals: NDArray[Any]


def weight_shapes(spec: ForecasterSpec, features: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of the network, as torch names and lays them out."""
    f, h = features, spec.hidden
    return {
        "gru.weight_ih": (3 * h, f),
        "gru.weight_hh": (3 * h, h),
        "gru.bias_ih": (3 * h,),
        "gru.bias_hh": (3 * h,),
        "mean.weight": (f, h),
        "mean.bias": (f,),
        "log_sigma.weight": (f, h),
        "log_sigma.bias": (f,),
    }


class Forecaster:
    """Scores events against the states of their entities. Not for concurrent use.

    Args:
        schema: names and bounds of the features.
        spec: shape and settings of the model.
        weights: float32 arrays named as in `weight_shapes`.
        linear: coefficients of the linear part.
        priors: where the statistics of an entity start.
        score_priors: where its residual scales and smoothed score start.

    Raises:
        ArtifactError: the weights do not fit the shape of the model or are not finite.
    """

    def __init__(
        self,
        schema: Schema,
        spec: ForecasterSpec,
        weights: Mapping[str, NDArray[Any]],
        *,
        linear: Linear,
        priors: Priors,
        score_priors: ScorePriors,
    ) -> None:
        _check_weights(weights, weight_shapes(spec, schema.size))
        self.schema = schema
        self.spec = spec
        # In C order, so that equal weights have equal bytes in the artifact.
        self.weights = {
            name: np.ascontiguousarray(weights[name], np.float32) for name in sorted(weights)
        }
        self.linear = linear
        self.priors = priors
        self.score_priors = score_priors
        self._entity_index = {entity: i for i, entity in enumerate(priors.entity_ids)}
        #: Record of the state of an entity.
        self.dtype = row_dtype(schema.size, spec.hidden, spec.lags, 2 * spec.season_parts)
        # Index 0 is the fleet, so that 0 in the state of an entity means "not in training".
        coefficients = np.concatenate([linear.pooled[None], linear.entity])  # (1 + E, L, F)
        #: The model for compiled code, and the memory that it works in.
        self.network = pack_network(
            spec, self.weights, coefficients, std_floor=priors.std_floor, dtype=self.dtype
        )
        self.scratch, self._group = Scratch.of(schema.bounds(), spec.hidden), EventGroup.new()
        self._step_scratch = Scratch.of(schema.bounds(), spec.hidden, keeps_residuals=True)

    def fill_new(self, rows: NDArray[Any], entity_ids: Sequence[str]) -> None:
        """Write the state of entities before their first event, in place.

        An entity of the training data starts from its statistics there, any other from the pool.
        """
        index = np.array([self._entity_index.get(name, -1) for name in entity_ids], np.int64)
        is_known, known = index >= 0, index[index >= 0]
        priors, scores = self.priors, self.score_priors
        rows["hidden"] = 0.0
        rows["lags"] = 0.0
        rows["season"] = rows["season_weight"] = 0.0
        rows["event_count"] = 0
        rows["smoothed_fast"] = rows["smoothed_slow"] = scores.score**2
        rows["prior_index"] = index + 1
        for name, pooled, per_entity in (
            ("mean", priors.mean, priors.entity_mean),
            ("var", priors.var, priors.entity_var),
            ("scale", scores.scale, scores.entity_scale),
        ):
            rows[name] = pooled
            rows[name][is_known] = per_entity[known]
        # A known entity learns at the slowest rate; a new one takes its first event as its mean.
        rows["statistics_weight"] = np.where(is_known, 1.0 / self.spec.normaliser.rate_min, 0.0)

    def restart_level(self, row: Record) -> None:
        """Let an entity take its next event as its mean, as a new entity does, in place.

        Variances, residual scales and the hidden vector keep their values.
        """
        for name in ("event_count", "statistics_weight", "season", "season_weight"):
            row[name] = 0
        row["smoothed_fast"] = row["smoothed_slow"] = self.score_priors.score**2

    def step(
        self, x: NDArray[Any], rows: NDArray[Any], event_time_us: NDArray[Any], learn: NDArray[Any]
    ) -> Scores:
        """Score one event per row, then advance `rows` past it, in place.

        Args:
            x: (B, F) float32 in raw units, NaN = missing.
            rows: (B,) records of `dtype`.
            event_time_us: (B,) int64, not negative; selects the part of the day.
            learn: (B,) bool; False leaves statistics and scales unchanged, while hidden and
                lags still advance.
        """
        count, size = x.shape
        score, loss, change = np.empty((3, count), np.float32)
        parts, expected = np.empty((2, count, size), np.float32)
        residuals = np.empty((count, RESIDUALS, size), np.float32)
        arrays = (score, loss, change, parts, expected, residuals)
        score_rows(
            heads(rows), floats(rows), np.ascontiguousarray(x).reshape(-1), event_time_us, learn,
            self.network, self._step_scratch, self._group,
            BatchResults(*(array.reshape(-1) for array in arrays)),
        )  # fmt: skip
        return Scores(
            score=score,
            parts=parts,
            expected=expected,
            loss=loss,
            change=change,
            residuals=residuals,
        )


def _check_weights(
    weights: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse weights that do not fit the shape of the model or are not finite."""
    for name, shape in expected.items():
        if name not in weights:
            raise ArtifactError(f"weights: {name!r} is missing; found {sorted(weights)}")
        if weights[name].shape != shape:
            raise ArtifactError(
                f"weights: {name!r} must have shape {shape}; got {weights[name].shape}"
            )
        if not np.isfinite(weights[name]).all():
            raise ArtifactError(f"weights: {name!r} holds a value that is not finite")
    if extra := sorted(set(weights) - set(expected)):
        raise ArtifactError(f"weights: expected only {sorted(expected)}; also got {extra}")
