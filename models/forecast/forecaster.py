"""Forecasts an entity's next event and scores what comes instead; numpy only.

Per event: standardise, compare with the forecast made from memory, score, and only
then learn. The forecast is a linear autoregression over the last L events plus what a
GRU (Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder",
in the form of `torch.nn.GRUCell`) adds to it:

    r  = sigmoid(W_r z + b_r + U_r h + c_r)         linear   = sum over l of a_l z[t - l]
    u  = sigmoid(W_u z + b_u + U_u h + c_u)         forecast = linear + M h + m
    n  = tanh(W_n z + b_n + r * (U_n h + c_n))      sigma    = exp(S h + s)
    h' = n + u * (h - n)

A feature surprises by the smaller of its two squared residuals, of the forecast and of
the linear part alone, each over its own running mean square: what either explains is
no anomaly. For levels that both follow, the squared distance is added from what is usual
for the entity at this time of day, on weekdays or at weekends. The mean over features is
smoothed fast and slowly; the score is the root of their mean.

The arithmetic is in `models.kernel.step`; here is what it works with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamgauge.models.errors import ArtifactError
from streamgauge.models.events.schema import Schema
from streamgauge.models.forecast.linear import Linear
from streamgauge.models.forecast.normaliser import Priors
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.kernel.buffers import PackedNetwork, Scratch
from streamgauge.models.scoring.waves import Lanes, Results, score_rows
from streamgauge.models.state.entity_row import TERMS, Record, floats, heads, row_dtype


@dataclass(frozen=True, slots=True, eq=False)
class ScorePriors:
    """Where residual scales and the smoothed score of an entity start."""

    #: (TERMS, F) float32, for an entity never seen.
    scale: np.ndarray
    #: (E, TERMS, F) float32, in the order of `Priors.entity_ids`.
    entity_scale: np.ndarray
    #: Typical score on normal data.
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What is said of an event of each of B entities."""

    #: (B,) float32, smoothed; high is anomalous.
    score: np.ndarray
    #: (B, F) float32, each feature's part of the event's own score, before the mean over features.
    parts: np.ndarray
    #: (B, F) float32, raw units, the forecast made before the event came.
    expected: np.ndarray
    #: (B,) float32, negative log-likelihood per observed feature, residuals capped.
    loss: np.ndarray
    #: (B,) float32, mean squared step from the last event, standard units, capped.
    change: np.ndarray
    #: (B, TERMS, F) float32, squared residuals before any scale, for training.
    residuals: np.ndarray


def weight_shapes(spec: ForecasterSpec, features: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's weights, named and laid out as in torch."""
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
    """Scores events against what their entities remember.

    Args:
        weights: float32 arrays as named by `weight_shapes`.
        linear: coefficients of the linear part.
        priors: where the normaliser of an entity starts.
        score_priors: where its residual scales and smoothed score start.
    """

    def __init__(
        self,
        schema: Schema,
        spec: ForecasterSpec,
        weights: Mapping[str, np.ndarray],
        linear: Linear,
        priors: Priors,
        score_priors: ScorePriors,
    ) -> None:
        _check_weights(weights, weight_shapes(spec, schema.size))
        self.schema = schema
        self.spec = spec
        # C order, since a transposed operand is another matrix kernel with other bits.
        self.weights = {
            name: np.ascontiguousarray(weights[name], np.float32) for name in sorted(weights)
        }
        self.linear = linear
        self.priors = priors
        self.score_priors = score_priors
        self._entity_index = {entity: i for i, entity in enumerate(priors.entity_ids)}
        #: What is remembered per entity.
        self.dtype = row_dtype(schema.size, spec.hidden, spec.lags, 2 * spec.season_parts)
        # Row 0 is the fleet's, so that 0 in an entity's state means "not in training".
        coefficients = np.concatenate([linear.pooled[None], linear.entity])  # (1 + E, L, F)
        given = (self.weights, coefficients, priors.std_floor)
        #: The same for compiled code, and the memory it works in: one call at a time.
        self.network = PackedNetwork.of(spec, *given, self.dtype)
        self.scratch, self._lanes = Scratch.of(schema.bounds(), spec.hidden), Lanes.new()
        self._step_scratch = Scratch.of(schema.bounds(), spec.hidden, keeps_residuals=True)

    def fill_new(self, rows: np.ndarray, entity_ids: Sequence[str]) -> None:
        """Write the state of entities before their first event, in place.

        An entity from training starts from its own statistics, any other from the pool.
        """
        index = np.array([self._entity_index.get(one, -1) for one in entity_ids], np.int64)
        known, at = index >= 0, index[index >= 0]
        priors, scores = self.priors, self.score_priors
        rows["hidden"] = 0.0
        rows["lags"] = 0.0
        rows["season"] = rows["season_weight"] = 0.0
        rows["event_count"] = 0
        rows["smoothed_fast"] = rows["smoothed_slow"] = scores.score**2
        rows["prior_index"] = index + 1
        for name, pooled, own in (
            ("mean", priors.mean, priors.entity_mean),
            ("var", priors.var, priors.entity_var),
            ("scale", scores.scale, scores.entity_scale),
        ):
            rows[name] = pooled
            rows[name][known] = own[at]
        # A known entity goes on at the slowest rate; a new one starts at its first event.
        rows["statistics_weight"] = np.where(known, 1.0 / self.spec.normaliser.rate_min, 0.0)

    def start_anew(self, row: Record) -> None:
        """Let an entity take its next event for its level, in place.

        As new ones do; but variances and residual scales go on from what they are, and the
        network remembers.
        """
        for name in ("event_count", "statistics_weight", "season", "season_weight"):
            row[name] = 0
        row["smoothed_fast"] = row["smoothed_slow"] = self.score_priors.score**2

    def step(
        self, x: np.ndarray, rows: np.ndarray, event_time_us: np.ndarray, learn: np.ndarray
    ) -> Scores:
        """Score one event per row, then advance `rows` past it, in place.

        Args:
            x: (B, F) float32 in raw units, NaN = missing.
            rows: (B,) records of `dtype`.
            event_time_us: (B,) int64, not negative; the time of day is taken from it.
            learn: (B,) bool; False leaves statistics and scales as they are (the event is
                a surprise), while hidden and lags still advance.
        """
        count, size = x.shape
        change, results = np.empty(count, np.float32), Results.of(count)
        parts, expected = np.empty((2, count, size), np.float32)
        residuals = np.empty((count, TERMS, size), np.float32)
        score_rows(
            heads(rows), floats(rows), np.ascontiguousarray(x).reshape(-1), event_time_us, learn,
            self.network, self._step_scratch, self._lanes, results, change,
            parts.reshape(-1), expected.reshape(-1), residuals.reshape(-1),
        )  # fmt: skip
        return Scores(results.score, parts, expected, results.loss, change, residuals)


def _check_weights(
    weights: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse weights that do not fit the model's shape or are not finite."""
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
