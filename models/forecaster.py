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

The arithmetic is in `models.kernel`, which keeps a score's bits apart from its
neighbours in the tile; here is what it works with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import ArtifactError
from models.kernel import TERMS, TILES, ForecasterSpec, Kernel, PackedWeights, TileScores
from models.linear import Linear
from models.normaliser import Priors
from models.schema import Schema
from models.sequence import SequenceKernel


@dataclass(frozen=True, slots=True, eq=False)
class ScorePriors:
    """Where residual scales and the smoothed score of an entity start."""

    #: (TERMS, F) float32, for an entity never seen.
    scale: np.ndarray
    #: (E, TERMS, F) float32, in the order of `Priors.entity_ids`.
    entity_scale: np.ndarray
    #: Typical score on normal data.
    score: float


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
    """Scores tiles of events against what their entities remember.

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
        # Row 0 is the fleet's, so that 0 in an entity's state means "not in training".
        coefficients = np.concatenate([linear.pooled[None], linear.entity])  # (1 + E, L, F)
        packed = PackedWeights.of(self.weights, spec.hidden)
        bounds, floor = schema.bounds(), priors.std_floor
        self._kernels = {
            rows: Kernel(spec, packed, coefficients, bounds, floor, rows) for rows in TILES
        }
        #: For many events of one entity; None where it has not the bits of the tiles.
        self.sequence: SequenceKernel | None = SequenceKernel(
            spec, packed, coefficients, bounds, floor
        )

    @property
    def fields(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """What is remembered per entity, as fields of a numpy structured dtype."""
        f = self.schema.size
        return (
            ("hidden", "<f4", (self.spec.hidden,)),
            ("lags", "<f4", (self.spec.lags, f)),  # standard values, latest first
            ("mean", "<f4", (f,)),
            ("var", "<f4", (f,)),
            ("scale", "<f4", (TERMS, f)),  # mean square of each residual
            ("season", "<f4", (2 * self.spec.season_parts, f)),  # usual standard values
            ("season_weight", "<f4", (2 * self.spec.season_parts,)),  # events they stand for
            ("smoothed", "<f4", (2,)),  # fast, slow
            ("weight", "<f4", ()),  # events that mean, var and scale stand for
            ("prior", "<u4", ()),  # 0, or 1 + the entity's place in the artifact
            ("seen", "<u4", ()),
        )

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
        rows["seen"] = 0
        rows["smoothed"] = scores.score**2
        rows["prior"] = index + 1
        for name, pooled, own in (
            ("mean", priors.mean, priors.entity_mean),
            ("var", priors.var, priors.entity_var),
            ("scale", scores.scale, scores.entity_scale),
        ):
            rows[name] = pooled
            rows[name][known] = own[at]
        # A known entity goes on at the slowest rate; a new one starts at its first event.
        rows["weight"] = np.where(known, 1.0 / self.spec.normaliser.rate_min, 0.0)

    def start_anew(self, rows: np.ndarray, renewed: np.ndarray) -> None:
        """Let entities take their next event for their level where `renewed` (B,), in place.

        As new ones do; but variances and residual scales go on from what they are, and the
        network remembers.
        """
        for name in ("seen", "weight", "season", "season_weight"):
            rows[name][renewed] = 0
        rows["smoothed"][renewed] = self.score_priors.score**2

    def step(
        self, x: np.ndarray, rows: np.ndarray, event_time_us: np.ndarray, learn: np.ndarray
    ) -> TileScores:
        """Score one event per row, then advance `rows` past it, in place.

        Args:
            x: (B, F) float32 in raw units, NaN = missing; B is one of `TILES`.
            rows: (B,) structured, with `fields`; rows of padding may hold anything.
            event_time_us: (B,) int64, not negative; the time of day is taken from it.
            learn: (B,) bool; False leaves statistics and scales as they are (the event is
                a surprise), while hidden and lags still advance.
        """
        return self._kernels[len(x)].step(x, rows, event_time_us, learn)

    def squared_residuals(self, rows: int) -> np.ndarray:
        """Squared residuals of the last step of a tile of `rows`, for training."""
        return self._kernels[rows].squared_residuals()


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
