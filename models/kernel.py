"""The arithmetic of one tile: numpy on arrays of one shape, nothing else.

A tile holds one event each of up to `rows` entities. Matrix products see it as groups
of `LANES` columns, one event per column: each group is one call of the same shape
whatever the size of the tile, and one strip of the kernel's vector lanes. So a score's
bits depend neither on the neighbours in the tile nor on how many there are. Row-major
products of 64 rows do not give that: OpenBLAS' Haswell and Zen kernels sum some of the
rows in another order than others. `models.selftest` proves it at start-up for every
slot of every size in `TILES`.

Several sizes, because a numpy call costs about a microsecond whatever it works on: a
large tile shares some 90 calls among many events, a small one does not waste them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.errors import ConfigError
from models.normaliser import Normaliser, NormaliserSpec

LANES = 16  # 24 and more differ between slots on Haswell; 8 costs a third more
TILES = (16, 64, 256)  # rows of a kernel call; multiples of `LANES`

# The head's sigma in standard units: a floor, since a constant channel would otherwise
# reward any certainty, and a ceiling, since a forecaster must not excuse everything.
LOG_SIGMA_MIN = float(np.log(1e-2))
LOG_SIGMA_MAX = 3.0

# Mean squares of residuals are never taken smaller: a channel that was constant in
# training has residual 0, and any scale would make a rounding error a surprise.
SCALE_MIN = 1e-2
CHANGE_CAP = np.float32(9.0)  # one step of a whole level must not pass for unrest
LEVEL_EXPONENT = 0.8
DAY_US = 86_400_000_000
FIRST_WEEKDAY = 3  # 1970-01-01 was a Thursday
TERMS = 2  # residuals with a scale of their own: of the forecast, of the linear part


@dataclass(frozen=True, slots=True)
class ForecasterSpec:
    """The model's shape and the settings of its score."""

    hidden: int = 64
    lags: int = 5
    #: A feature's squared residual over its mean square counts for at most this much.
    cap: float = 100.0
    #: What the level of a single feature counts beside its residuals; see `level_weight`.
    level_weight: float = 3.0
    #: Parts of a day (UTC), each with a usual level on weekdays and one at weekends.
    season_parts: int = 4
    #: Events in one of them that its usual level stands for at most.
    season_events: int = 360
    #: Smoothing of the score over an entity's events, fast and slow; 1 = none.
    alphas: tuple[float, float] = (0.1, 0.02)
    normaliser: NormaliserSpec = field(default_factory=NormaliserSpec)

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.lags < 1:
            raise ConfigError(
                f"forecaster: hidden and lags must be >= 1; got {self.hidden} and {self.lags}"
            )
        if self.season_parts < 1 or self.season_events < 1:
            raise ConfigError(
                "forecaster: season_parts and season_events must be >= 1; "
                f"got {self.season_parts} and {self.season_events}"
            )
        if len(self.alphas) != 2 or not all(0 < alpha <= 1 for alpha in self.alphas):
            raise ConfigError(f"forecaster: alphas must be two in (0, 1]; got {self.alphas}")
        if not self.cap > 0 or not self.level_weight >= 0:
            raise ConfigError(
                "forecaster: cap must be > 0 and level_weight >= 0; "
                f"got {self.cap} and {self.level_weight}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class TileScores:
    """What one kernel call says about the events of a tile of B rows."""

    #: (B,) float32, smoothed; high is anomalous.
    score: np.ndarray
    #: (B, F) float32, each feature's share of the event's own score; sums to 1 or is 0.
    contribution: np.ndarray
    #: (B, F) float32, raw units, the forecast made before the event came.
    expected: np.ndarray
    #: (B,) float32, negative log-likelihood per observed feature, residuals capped.
    loss: np.ndarray
    #: (B,) float32, mean squared step from the last event, standard units, each at most
    #: `CHANGE_CAP`; 0 without a comparison.
    change: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeights:
    """Weights merged by their right operand; biases meet a row of ones.

    sigmoid(v) = (1 + tanh(v / 2)) / 2, so the gates' halves are folded in here and one
    tanh call serves both gates.
    """

    #: (2F, H + 1): mean and log sigma from hidden.
    head: np.ndarray
    #: (3H, H + 1): reset, update and new gate from hidden.
    recurrent: np.ndarray
    #: (3H, F + 1): the same from the event.
    given: np.ndarray

    @classmethod
    def of(cls, weights: dict[str, np.ndarray], hidden: int) -> PackedWeights:
        """Merge the arrays that `models.forecaster.weight_shapes` names."""
        half = np.ones((3 * hidden, 1), np.float32)
        half[: 2 * hidden] = 0.5

        def with_bias(name: str, suffix: str = "") -> np.ndarray:
            weight, bias = weights[f"{name}weight{suffix}"], weights[f"{name}bias{suffix}"]
            return np.hstack([weight, bias[:, None]])

        return cls(
            np.vstack([with_bias("mean."), with_bias("log_sigma.")]),
            half * with_bias("gru.", "_hh"),
            half * with_bias("gru.", "_ih"),
        )


class Kernel:
    """Steps tiles of `rows` events; owns the scratch for it, so one call at a time."""

    def __init__(
        self,
        spec: ForecasterSpec,
        packed: PackedWeights,
        coefficients: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
        std_floor: np.ndarray,
        rows: int,
    ) -> None:
        assert rows % LANES == 0
        self.rows = rows
        self.spec = spec
        self._features = std_floor.shape[1]
        self._packed = packed
        self._coefficients = coefficients  # (1 + E, L, F), the fleet's first
        self._var_floors = np.square(std_floor, dtype=np.float32)  # (1 + E, F)
        self._normaliser = Normaliser(spec.normaliser, bounds, rows)
        self._allocate()

    def step(
        self, x: np.ndarray, rows: np.ndarray, event_time_us: np.ndarray, learn: np.ndarray
    ) -> TileScores:
        """See `Forecaster.step`."""
        with np.errstate(all="ignore"):  # padding may overflow; live rows are clipped
            season = (self._slots, season_bin(event_time_us, self.spec.season_parts))
            self._forecast(rows)
            self._compare(x, rows, season)
            scores = self._score(rows)
            self._learn(rows, learn, season)
            self._advance(rows)
        return scores

    def squared_residuals(self) -> np.ndarray:
        """Squared residuals of the last step before any scale, (B, TERMS, F); for training."""
        of_forecast = (self._z - self._forecasted) * np.exp(-self._log_sigma)
        return np.square(np.stack([of_forecast, self._z - self._linear], axis=1))

    def _allocate(self) -> None:
        """Scratch for one tile; `step` allocates little more than what it returns."""
        f, h = self._features, self.spec.hidden

        def lanes(size: int) -> np.ndarray:
            return np.ones((self.rows // LANES, size, LANES), np.float32)

        # A last row of ones, never written again, multiplies the biases.
        self._hidden_one, self._z_one = lanes(h + 1), lanes(f + 1)
        self._hidden, self._z_lanes = self._hidden_one[:, :-1], self._z_one[:, :-1]
        self._head, self._recurrent, self._from_input = lanes(2 * f), lanes(3 * h), lanes(3 * h)
        self._gates, self._new = lanes(2 * h), lanes(h)
        self._head_rows = np.empty((self.rows, 2 * f), np.float32)
        self._taps = np.empty((self.rows, self.spec.lags, f), np.float32)
        flat = [np.empty((self.rows, f), np.float32) for _ in range(12)]
        self._linear, self._forecasted, self._log_sigma, self._inverse, self._z = flat[:5]
        self._std, self._mask, self._gain, self._parts, self._scratch = flat[5:10]
        self._usual, self._level = flat[10:]
        self._slots = np.arange(self.rows)
        self._alphas = np.array(self.spec.alphas, np.float32)
        self._level_weight = level_weight(self.spec, f)
        self._season_rate_min = np.float32(1.0 / self.spec.season_events)
        self._ratio = np.empty((self.rows, TERMS, f), np.float32)

    def _forecast(self, rows: np.ndarray) -> None:
        """Mean and sigma of the event in standard units, from memory alone."""
        f, clip = self._features, np.float32(self.spec.normaliser.clip)
        np.take(self._coefficients, rows["prior"], axis=0, out=self._taps, mode="clip")
        self._taps *= rows["lags"]
        np.add.reduce(self._taps, axis=1, out=self._linear)  # (B, F)
        np.copyto(self._hidden, _lanes(rows["hidden"]))
        np.matmul(self._packed.head, self._hidden_one, out=self._head)
        np.copyto(_lanes(self._head_rows), self._head)  # (B, 2F)
        np.add(self._linear, self._head_rows[:, :f], out=self._forecasted)
        for forecast in (self._linear, self._forecasted):
            np.maximum(forecast, -clip, out=forecast)
            np.minimum(forecast, clip, out=forecast)
        np.maximum(self._head_rows[:, f:], np.float32(LOG_SIGMA_MIN), out=self._log_sigma)
        np.minimum(self._log_sigma, np.float32(LOG_SIGMA_MAX), out=self._log_sigma)
        np.negative(self._log_sigma, out=self._inverse)
        np.exp(self._inverse, out=self._inverse)

    def _compare(
        self, x: np.ndarray, rows: np.ndarray, season: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Standardise the event; residuals over their running mean squares, and the level."""
        z, ratio, cap = self._z, self._ratio, np.float32(self.spec.cap)
        observed = x == x  # False for NaN
        self._normaliser.standardise(
            x, rows["mean"], rows["var"], rows["weight"][:, None], z, self._std
        )
        # A missing value is taken to be what was forecast: no surprise, and memory goes on.
        np.copyto(z, self._forecasted, where=~observed)
        np.copyto(self._gain, observed)
        # The first event has nothing to be compared with.
        np.multiply(self._gain, rows["seen"][:, None] > 0, out=self._mask)
        np.subtract(z, self._forecasted, out=ratio[:, 0])
        ratio[:, 0] *= self._inverse
        np.subtract(z, self._linear, out=ratio[:, 1])
        np.multiply(ratio, ratio, out=ratio)
        np.minimum(ratio[:, 0], cap, out=self._inverse)  # kept for the likelihood
        ratio /= rows["scale"]
        np.minimum(ratio, cap, out=ratio)
        self._usual[:] = rows["season"][season]
        np.subtract(z, self._usual, out=self._level)

    def _score(self, rows: np.ndarray) -> TileScores:
        """Fold residuals and features into one smoothed number and its explanation."""
        parts, mask, scratch, spec = self._parts, self._mask, self._scratch, self.spec
        np.minimum(self._ratio[:, 0], self._ratio[:, 1], out=parts)
        np.multiply(self._level, self._level, out=scratch)
        np.minimum(scratch, np.float32(spec.cap), out=scratch)
        scratch *= self._level_weight
        parts += scratch
        parts *= mask
        total = np.add.reduce(parts, axis=1)  # (B,)
        count = np.add.reduce(mask, axis=1)  # (B,)
        here = np.maximum(count, np.float32(1.0))
        # An event without a comparison leaves the smoothed scores as they are.
        alphas = self._alphas * (count > 0)[:, None]  # (B, 2)
        smoothed = rows["smoothed"]
        smoothed += alphas * ((total / here)[:, None] - smoothed)
        score = np.sqrt((smoothed[:, 0] + smoothed[:, 1]) * np.float32(0.5))
        contribution = parts / np.maximum(total, np.float32(1e-12))[:, None]
        nll = self._inverse
        nll *= np.float32(0.5)
        nll += self._log_sigma
        nll *= mask
        loss = np.add.reduce(nll, axis=1) / here
        expected = self._forecasted * self._std
        expected += rows["mean"]
        np.subtract(self._z, rows["lags"][:, 0], out=scratch)
        scratch *= scratch
        np.minimum(scratch, CHANGE_CAP, out=scratch)
        scratch *= mask
        change = np.add.reduce(scratch, axis=1) / here
        return TileScores(score, contribution, expected, loss, change)

    def _learn(
        self, rows: np.ndarray, learn: np.ndarray, season: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Move statistics, usual levels and scales of the rows that may learn."""
        gain, ratio, weight = self._gain, self._ratio, rows["weight"]
        gain *= learn[:, None]
        seen_here = rows["season_weight"][season] + learn
        rate = np.maximum(np.float32(1.0) / np.maximum(seen_here, 1), self._season_rate_min)
        self._level *= gain
        self._level *= rate[:, None]
        self._usual += self._level
        rows["season"][season] = self._usual
        rows["season_weight"][season] = seen_here
        floor = self._scratch
        np.take(self._var_floors, rows["prior"], axis=0, out=floor, mode="clip")
        self._normaliser.learn(
            self._z, self._std, gain, rows["mean"], rows["var"], weight[:, None], floor
        )
        gain *= self._mask
        gain *= self._normaliser.spread_rate(weight[:, None])
        ratio -= np.float32(1.0)
        ratio *= gain[:, None]
        ratio += np.float32(1.0)
        scale = rows["scale"]
        scale *= ratio
        np.maximum(scale, np.float32(SCALE_MIN), out=scale)
        weight += learn

    def _advance(self, rows: np.ndarray) -> None:
        """Let hidden and lags take in the event."""
        h, gates, new, hidden = self.spec.hidden, self._gates, self._new, self._hidden
        np.matmul(self._packed.recurrent, self._hidden_one, out=self._recurrent)  # (3H)
        np.copyto(self._z_lanes, _lanes(self._z))
        np.matmul(self._packed.given, self._z_one, out=self._from_input)  # (3H)
        np.add(self._from_input[:, : 2 * h], self._recurrent[:, : 2 * h], out=gates)
        np.tanh(gates, out=gates)
        gates *= np.float32(0.5)
        gates += np.float32(0.5)  # (2H): reset, update
        np.multiply(gates[:, :h], self._recurrent[:, 2 * h :], out=new)
        new += self._from_input[:, 2 * h :]
        np.tanh(new, out=new)
        hidden -= new
        hidden *= gates[:, h:]
        hidden += new
        np.copyto(_lanes(rows["hidden"]), hidden)
        lags, seen = rows["lags"], rows["seen"]
        lags[:, 1:] = lags[:, :-1]
        lags[:, 0] = self._z
        first = seen == 0
        if first.any():  # an entity is taken to have been before as it is first seen
            np.copyto(lags, self._z[:, None, :], where=first[:, None, None])
        seen += 1


def season_bin(event_time_us: np.ndarray, parts: int) -> np.ndarray:
    """Which part of its day (UTC) each event lies in; those of weekends come last.

    >>> season_bin(np.array([0, DAY_US // 4, DAY_US - 1, 2 * DAY_US]), 4).tolist()
    [0, 1, 3, 4]
    """
    is_weekend = (event_time_us // DAY_US + FIRST_WEEKDAY) % 7 >= 5
    return event_time_us % DAY_US * parts // DAY_US + parts * is_weekend


def level_weight(spec: ForecasterSpec, features: int) -> np.float32:
    """What a feature's squared level counts in a score over as many features.

    Residuals of many features average out, levels do not: they wander together. On the
    development sets the best weight is 3 for one feature, .3 for 19 and .16 for 38.
    """
    return np.float32(spec.level_weight / features**LEVEL_EXPONENT)


def _lanes(per_row: np.ndarray) -> np.ndarray:
    """View (B, n) as (B / LANES, n, LANES): events become columns."""
    # Splitting the first axis never copies, so writing to it writes to `per_row`.
    return per_row.reshape(len(per_row) // LANES, LANES, -1).transpose(0, 2, 1)
