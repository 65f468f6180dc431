"""Many events of one entity in one call, to the bit what as many tiles would give.

A tile of one live row costs as much as one of sixteen. An entity with many events in a block
would take a tile for each, and hold up all others of its shard. Here only what truly
recurs is looped over, on vectors of one entity: the normaliser, the GRU and the residual
scales. The products with the event, the head, the linear part and the score are worked out
for all events together, in groups of `LANES` columns like any tile. `models.selftest` holds
both ways to equal bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.kernel import (
    CHANGE_CAP,
    LANES,
    LOG_SIGMA_MAX,
    LOG_SIGMA_MIN,
    SCALE_MIN,
    TERMS,
    ForecasterSpec,
    PackedWeights,
    TileScores,
    level_weight,
    season_bin,
)

_ONE, _HALF = np.float32(1.0), np.float32(0.5)
# Short names for what is called a dozen times per event.
_add, _sub, _mul, _div, _max, _min = (
    np.add,
    np.subtract,
    np.multiply,
    np.divide,
    np.maximum,
    np.minimum,
)


class SequenceKernel:
    """Steps one entity through T events that have no missing value."""

    def __init__(
        self,
        spec: ForecasterSpec,
        packed: PackedWeights,
        coefficients: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
        std_floor: np.ndarray,
    ) -> None:
        self.spec = spec
        self._packed = packed
        self._coefficients = coefficients  # (1 + E, L, F)
        self._lower, self._upper = bounds
        self._var_floors = np.square(std_floor, dtype=np.float32)  # (1 + E, F)

    @staticmethod
    def takes(row: np.ndarray) -> bool:
        """Whether the entity of `row` (1,) is past its first event, which is unlike all others."""
        mean = row["mean"][0]
        # Learning nothing adds 0 to the mean, which turns -0 into 0.
        is_negative_zero = np.signbit(mean) & (mean == 0)
        return bool(row["seen"][0] > 0 and row["weight"][0] >= 1) and not is_negative_zero.any()

    def step(
        self, x: np.ndarray, row: np.ndarray, event_time_us: np.ndarray, learn: bool
    ) -> TileScores:
        """Score `x` (T, F), one after the other, and advance `row` (1,) in place.

        Args:
            x: raw units, float32, no NaN.
            row: a record that `takes` accepts.
            event_time_us: (T,) int64.
            learn: whether statistics and scales move, the same for all T.
        """
        with np.errstate(all="ignore"):
            x = np.minimum(np.maximum(x, self._lower), self._upper)
            count = len(x)
            weight: np.ndarray = np.full(count, row["weight"][0], np.float32)
            if learn:
                weight[1:] = _ONE
                weight = np.add.accumulate(weight)
            norm = self.spec.normaliser
            rate_min = np.float32(norm.rate_min)
            spread = np.maximum(_ONE / (weight + np.float32(norm.prior_events)), rate_min)
            rate = np.maximum(_ONE / (weight + _ONE), rate_min)
            z, std, mean = self._standardise(x, row, rate, spread, learn)
            past = np.concatenate([row["lags"][0][::-1], z])  # oldest first
            hidden = self._hidden(z, row)
            linear, forecasted, log_sigma = self._forecast(past, hidden, int(row["prior"][0]))
            ratio, capped = self._ratio(z, linear, forecasted, log_sigma)
            self._scale(ratio, row, spread, learn)
            score, contribution = self._score(
                z, self._level(z, row, event_time_us, learn), ratio, row
            )
            steps = z - past[self.spec.lags - 1 : -1]
            steps *= steps
            np.minimum(steps, CHANGE_CAP, out=steps)
            change = np.add.reduce(steps, axis=1) / np.float32(x.shape[1])
            capped *= _HALF
            capped += log_sigma
            forecasted *= std
            forecasted += mean
            row["lags"][0] = past[: -self.spec.lags - 1 : -1]
            row["seen"][0] += count
            if learn:
                row["weight"][0] = weight[-1] + _ONE
            loss = np.add.reduce(capped, axis=1) / np.float32(x.shape[1])
        return TileScores(score, contribution, forecasted, loss, change)

    def _standardise(
        self, x: np.ndarray, row: np.ndarray, rate: np.ndarray, spread: np.ndarray, learn: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard values, and the standard deviations and means they come from, (T, F) each."""
        mean, var = row["mean"][0], row["var"][0]
        floor = self._var_floors[int(row["prior"][0])]
        high = np.float32(self.spec.normaliser.clip)
        low = -high
        zs, stds, means = (np.empty_like(x) for _ in range(3))
        if not learn:
            stds[:], means[:] = np.sqrt(var), mean
            np.subtract(x, mean, out=zs)
            zs /= stds
            np.maximum(zs, low, out=zs)
            np.minimum(zs, high, out=zs)
            return zs, stds, means
        s, sqrt = np.empty_like(mean), np.sqrt
        for xt, z, std, before, fast, slow in zip(x, zs, stds, means, rate, spread, strict=True):
            sqrt(var, std)
            _sub(xt, mean, z)
            _div(z, std, z)
            _max(z, low, z)
            _min(z, high, z)
            before[:] = mean
            _mul(z, std, s)
            _mul(s, fast, s)
            _add(mean, s, mean)
            _mul(z, z, s)
            _sub(s, _ONE, s)
            _mul(s, slow, s)
            _add(s, _ONE, s)
            _mul(var, s, var)
            _max(var, floor, var)
        return zs, stds, means

    def _hidden(self, z: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The hidden vectors (T, H) before each event; advances the row's."""
        h, tanh, matmul = self.spec.hidden, np.tanh, np.matmul
        given = _rows(matmul(self._packed.given, _columns(z)), len(z))  # (T, 3H)
        hiddens = np.empty((len(z), h), np.float32)
        columns = np.ones((1, h + 1, LANES), np.float32)
        product = np.empty((1, 3 * h, LANES), np.float32)
        lane, of_gates, of_new = columns[0, :-1, 0], product[0, : 2 * h, 0], product[0, 2 * h :, 0]
        gates, new, hidden = np.empty(2 * h, np.float32), np.empty(h, np.float32), row["hidden"][0]
        reset, update, recurrent = gates[:h], gates[h:], self._packed.recurrent
        for before, gate, fresh in zip(hiddens, given[:, : 2 * h], given[:, 2 * h :], strict=True):
            before[:] = hidden
            lane[:] = hidden
            matmul(recurrent, columns, product)
            _add(gate, of_gates, gates)
            tanh(gates, gates)
            _mul(gates, _HALF, gates)
            _add(gates, _HALF, gates)
            _mul(reset, of_new, new)
            _add(new, fresh, new)
            tanh(new, new)
            _sub(hidden, new, hidden)
            _mul(hidden, update, hidden)
            _add(hidden, new, hidden)
        return hiddens

    def _forecast(
        self, past: np.ndarray, hidden: np.ndarray, prior: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linear part, forecast and log sigma, (T, F) each."""
        count, lags, f = len(hidden), self.spec.lags, past.shape[1]
        clip = np.float32(self.spec.normaliser.clip)
        taps = np.repeat(self._coefficients[prior][None], count, axis=0)  # (T, L, F)
        for lag in range(lags):
            first = lags - 1 - lag
            taps[:, lag] *= past[first : first + count]
        linear = np.add.reduce(taps, axis=1)
        head = _rows(np.matmul(self._packed.head, _columns(hidden)), count)  # (T, 2F)
        forecasted = linear + head[:, :f]
        for one in (linear, forecasted):
            np.maximum(one, -clip, out=one)
            np.minimum(one, clip, out=one)
        log_sigma = np.maximum(head[:, f:], np.float32(LOG_SIGMA_MIN))
        return linear, forecasted, np.minimum(log_sigma, np.float32(LOG_SIGMA_MAX))

    def _ratio(
        self, z: np.ndarray, linear: np.ndarray, forecasted: np.ndarray, log_sigma: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Squared residuals (T, TERMS, F), and the capped ones of the forecast (T, F)."""
        ratio = np.empty((len(z), TERMS, z.shape[1]), np.float32)
        np.subtract(z, forecasted, out=ratio[:, 0])
        ratio[:, 0] *= np.exp(-log_sigma)
        np.subtract(z, linear, out=ratio[:, 1])
        np.multiply(ratio, ratio, out=ratio)
        return ratio, np.minimum(ratio[:, 0], np.float32(self.spec.cap))

    def _scale(self, ratio: np.ndarray, row: np.ndarray, spread: np.ndarray, learn: bool) -> None:
        """Divide by the running mean squares, which learn from it, and cap; in place."""
        scale, cap, least = row["scale"][0], np.float32(self.spec.cap), np.float32(SCALE_MIN)
        if not learn:
            ratio /= scale
            np.minimum(ratio, cap, out=ratio)
            return
        s = np.empty_like(scale)
        for one, slow in zip(ratio, spread, strict=True):
            _div(one, scale, one)
            _min(one, cap, one)
            _sub(one, _ONE, s)
            _mul(s, slow, s)
            _add(s, _ONE, s)
            _mul(scale, s, scale)
            _max(scale, least, scale)

    def _level(
        self, z: np.ndarray, row: np.ndarray, event_time_us: np.ndarray, learn: bool
    ) -> np.ndarray:
        """Distances (T, F) from what was usual at the time of day, which learns from them."""
        bins = season_bin(event_time_us, self.spec.season_parts)
        usual, weight = row["season"][0], row["season_weight"][0]
        if not learn:
            return z - usual[bins]
        level, rate_min = np.empty_like(z), np.float32(1.0 / self.spec.season_events)
        s = np.empty_like(z[0])
        for value, out, at in zip(z, level, bins.tolist(), strict=True):
            here = usual[at]
            _sub(value, here, out)
            weight[at] += _ONE
            _mul(out, max(_ONE / max(weight[at], _ONE), rate_min), s)
            _add(here, s, here)
        return level

    def _score(
        self, z: np.ndarray, level: np.ndarray, ratio: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Smoothed scores (T,) and contributions (T, F)."""
        parts = np.minimum(ratio[:, 0], ratio[:, 1])
        level *= level
        np.minimum(level, np.float32(self.spec.cap), out=level)
        level *= level_weight(self.spec, z.shape[1])
        parts += level
        total = np.add.reduce(parts, axis=1)  # (T,)
        fresh = total / np.float32(z.shape[1])
        alphas, last = np.array(self.spec.alphas, np.float32), row["smoothed"][0]
        fast, slow = (
            np.array(_smoothed(fresh, alpha, value), np.float32)
            for alpha, value in zip(alphas, last.copy(), strict=True)
        )
        last[:] = fast[-1], slow[-1]
        contribution = parts / np.maximum(total, np.float32(1e-12))[:, None]
        return np.sqrt((fast + slow) * _HALF), contribution


def _smoothed(fresh: np.ndarray, alpha: np.float32, value: np.float32) -> Iterable[np.float32]:
    values = []
    for one in fresh:
        value = value + alpha * (one - value)
        values.append(value)
    return values


def _columns(rows: np.ndarray) -> np.ndarray:
    """Rows (T, n) as columns (G, n + 1, LANES) over a row of ones, which meets the biases."""
    count, n = rows.shape
    groups = -(-count // LANES)
    padded = np.zeros((groups * LANES, n), np.float32)
    padded[:count] = rows
    columns = np.ones((groups, n + 1, LANES), np.float32)
    columns[:, :n] = padded.reshape(groups, LANES, n).transpose(0, 2, 1)
    return columns


def _rows(columns: np.ndarray, count: int) -> np.ndarray:
    """The first `count` columns of (G, n, LANES) as rows (T, n)."""
    return np.ascontiguousarray(columns.transpose(0, 2, 1)).reshape(-1, columns.shape[1])[:count]
