"""Trains the network by truncated back-propagation through time (Williams and Peng 1990).

Series are cut into pieces, which are the rows of a batch. The hidden vector is carried from
chunk to chunk along a piece; gradients are not. The last part of every series, in time, is held
out: it stops the training and calibrates the score, and the network never learns from it.
Every random choice follows from seed and epoch, so a training that was stopped and resumed gives
the same weights as one that was not. On a GPU with bfloat16 the network runs in bfloat16;
loss, weights and held-out loss are always float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamgauge.models.errors import ConfigError, TrainingError
from streamgauge.models.training.gru_network import Network, loss

NON_FINITE_MAX = 20  # steps without a finite gradient in a row, after which training fails
GRADIENT_NORM_MAX = 1.0
WARM_UP_SHARE = 0.1  # share of all steps in which the learning rate rises from 0
HIDDEN_MAX = 1_024  # the state of every entity holds this many floats
#: Less is too little for calibration, more leaves too little for training.
HELD_OUT_MIN, HELD_OUT_MAX = 0.05, 0.5
SEED_MAX = 2**32 - 1  # largest seed of numpy


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The settings of a training; all of them become part of the artifact's manifest."""

    hidden: int = 64
    lags: int = 5
    #: More epochs only lengthen the washout: at 40 it grows from 300 to 2,000 events, and the
    #: AUC-PR of the server machines does not improve (.481 against .484).
    epochs: int = 16
    #: Epochs without a better held-out loss after which training stops.
    patience: int = 6
    #: Approximate number of pieces that series are cut into; they are trained side by side.
    rows: int = 192
    #: Events per chunk of back-propagation.
    chunk: int = 64
    learning_rate: float = 3e-3
    #: Share of features that are hidden from the GRU, per row and chunk.
    channel_drop: float = 0.1
    #: Standard deviation of noise on the input of the GRU, so that it does not copy the last value.
    noise: float = 0.1
    #: Share of each series, at its end, that is held out.
    held_out: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lags", "epochs", "patience", "rows", "chunk"):
            self._check(name, getattr(self, name) >= 1, ">= 1")
        self._check("hidden", 1 <= self.hidden <= HIDDEN_MAX, f"1 to {HIDDEN_MAX}")
        self._check("channel_drop", 0 <= self.channel_drop < 1, "in [0, 1)")
        is_usable = HELD_OUT_MIN <= self.held_out <= HELD_OUT_MAX
        self._check("held_out", is_usable, f"{HELD_OUT_MIN} to {HELD_OUT_MAX}")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "finite and > 0")
        self._check("noise", 0 <= self.noise < math.inf, "finite and >= 0")
        self._check("seed", 0 <= self.seed <= SEED_MAX, f"0 to {SEED_MAX}")

    def _check(self, name: str, is_usable: bool, rule: str) -> None:
        if not is_usable:
            raise ConfigError(f"training: {name} must be {rule}; got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Standard values and their linear forecasts, in pieces of equal length.

    Where `mask` is 0 the value is missing or padding, and `z` holds a replacement.
    """

    #: (B, T, F) float32 each.
    z: NDArray[Any]
    linear: NDArray[Any]
    mask: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a training."""

    #: Counted from 1 over all epochs.
    number: int
    #: Share of its epoch that is done.
    share: float
    loss: float
    learning_rate: float
    #: Norm of the gradient before clipping.
    gradient_norm: float
    #: Whether the weights did not change, because loss or gradient was not finite.
    is_skipped: bool


@dataclass(slots=True)
class Progress:
    """The progress of a training; together with `Trainer.tensors` it can be resumed."""

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    skipped: int = 0
    skipped_in_a_row: int = 0
    #: (training loss, held-out loss) per epoch.
    history: list[tuple[float, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `math.inf` becomes None."""
        data = asdict(self)
        data["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        """Read what `to_json` wrote."""
        best = math.inf if data["best_loss"] is None else data["best_loss"]
        history = [(float(a), float(b)) for a, b in data["history"]]
        return cls(**{**data, "best_loss": best, "history": history})


def cut(
    z: Sequence[NDArray[Any]], linear: Sequence[NDArray[Any]], rows: int, length_min: int
) -> Sequences:
    """Cut series into about `rows` pieces of equal length, the last of each padded.

    Args:
        z: (T, F) standard values per series, NaN where missing.
        linear: (T, F) linear forecast of each of them.
        rows: approximate number of pieces.
        length_min: least length of a piece, whatever the number of rows.
    """
    total = sum(len(values) for values in z)
    length = max(math.ceil(total / rows), length_min)
    pieces = [
        (values[start : start + length], forecast[start : start + length])
        for values, forecast in zip(z, linear, strict=True)
        for start in range(0, len(values), length)
    ]
    shape = (len(pieces), length, z[0].shape[1])
    result = Sequences(*(np.zeros(shape, np.float32) for _ in range(3)))
    for i, (values, forecast) in enumerate(pieces):
        here = slice(0, len(values))
        observed = np.isfinite(values)
        result.z[i, here] = np.where(observed, values, forecast)
        result.linear[i, here] = forecast
        result.mask[i, here] = observed
    return result


def mixes_precision(device: torch.device) -> bool:
    """Return whether the network runs in bfloat16 on `device`.

    Never on a CPU: an artifact's version depends on the bits of its weights. bfloat16 has the
    exponents of float32, so gradients need no scaling.
    """
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class Trainer:
    """One training: network, optimiser and their progress.

    Args:
        settings: of the training.
        train: sequences to learn from.
        held_out: sequences whose loss decides when to stop.
    """

    def __init__(self, settings: TrainingSettings, train: Sequences, held_out: Sequences) -> None:
        self.settings = settings
        self.progress = Progress()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._is_mixed = mixes_precision(self._device)
        torch.manual_seed(settings.seed)
        self.network = Network(train.z.shape[2], settings.hidden).to(self._device)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=1e-3
        )
        self._best = self._copy_of_weights()
        self._train, self._held_out = self._tensors_of(train), self._tensors_of(held_out)
        chunks = math.ceil((train.z.shape[1] - 1) / settings.chunk)
        self._chunks: int = max(chunks, 1)

    @property
    def precision(self) -> str:
        """Number format of the network during training."""
        return "bfloat16" if self._is_mixed else "float32"

    @property
    def is_done(self) -> bool:
        """Whether all epochs are over or the held-out loss has stopped falling."""
        progress = self.progress
        stalled = progress.epoch - 1 - progress.best_epoch >= self.settings.patience
        return progress.epoch >= self.settings.epochs or (progress.best_epoch >= 0 and stalled)

    def run_epoch(self, watch: Callable[[Step], None] = lambda step: None) -> None:
        """Train one epoch, then compute the held-out loss and store the best weights.

        Args:
            watch: called after each step.

        Raises:
            TrainingError: too many steps in a row have no finite gradient, or the held-out loss
                is not finite.
        """
        progress, settings = self.progress, self.settings
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + progress.epoch)
        self.network.train()
        losses, hidden = [], self._no_hidden(len(self._train[0]))
        for i in range(self._chunks):
            step, hidden = self._step(i, hidden, generator)
            if not step.is_skipped:
                losses.append(step.loss)
            watch(step)
        held_out = self._evaluate(*self._held_out)
        if not math.isfinite(held_out):
            raise TrainingError(
                f"training: held-out loss must be finite; got {held_out} after epoch "
                f"{progress.epoch}; lower learning_rate (now {settings.learning_rate})"
            )
        progress.history.append((float(np.mean(losses)) if losses else held_out, held_out))
        if held_out < progress.best_loss:
            progress.best_loss, progress.best_epoch = held_out, progress.epoch
            self._best = self._copy_of_weights()
        progress.epoch += 1

    def best_weights(self) -> dict[str, NDArray[Any]]:
        """Return the weights of the best epoch, named as in `weight_shapes`."""
        self.network.load_state_dict(self._best)
        return self.network.weights()

    def best_loss_on(self, unseen: Sequences) -> float:
        """Return the loss of the best weights on events that training did not use."""
        self.network.load_state_dict(self._best)
        return self._evaluate(*self._tensors_of(unseen))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a training needs to resume, besides `progress`."""
        arrays = {f"now.{n}": t for n, t in self.network.state_dict().items()}
        arrays |= {f"best.{n}": t for n, t in self._best.items()}
        for i, state in self._optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{i}.{n}": t for n, t in state.items()}
        return {name: t.detach().cpu().numpy().copy() for name, t in arrays.items()}

    def restore(self, tensors: dict[str, NDArray[Any]], progress: Progress) -> None:
        """Resume where `tensors` and `progress` were taken."""
        loaded = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}

        def under(prefix: str) -> dict[str, Tensor]:
            cut_at = len(prefix)
            return {n[cut_at:]: t for n, t in loaded.items() if n.startswith(prefix)}

        self.network.load_state_dict(under("now."))
        self._best = {n: t.to(self._device) for n, t in under("best.").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under("optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.progress = progress

    def _step(self, i: int, hidden: Tensor, generator: torch.Generator) -> tuple[Step, Tensor]:
        """Train one chunk; returns the step and the hidden vectors after it."""
        settings, progress = self.settings, self.progress
        rate = settings.learning_rate * self._rate(progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        progress.step += 1
        at, end = i * settings.chunk, min((i + 1) * settings.chunk, self._train[0].shape[1] - 1)
        z, linear, mask = (t[:, at : end + 1] for t in self._train)
        noisy = self._add_noise(z[:, :-1], generator)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_mixed):
            mean, log_sigma, after = self.network(noisy, hidden)
        value = _loss(mean, log_sigma, z, linear, mask)
        self._optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_MAX)
        is_skipped = not (torch.isfinite(value) and torch.isfinite(norm))
        share = (i + 1) / self._chunks
        step = Step(progress.step, share, value.item(), rate, norm.item(), is_skipped)
        if is_skipped:
            self._count_skipped(step.loss)
            return step, torch.zeros_like(hidden)
        progress.skipped_in_a_row = 0
        self._optimizer.step()
        return step, after.detach()

    def _add_noise(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to all features and hide some, so that the forecast is no copy."""
        settings, (rows, _, features) = self.settings, z.shape
        visible = torch.rand(rows, 1, features, generator=generator) >= settings.channel_drop
        noise = settings.noise * torch.randn(z.shape, generator=generator)
        return (z + noise.to(self._device)) * visible.to(self._device)

    def _count_skipped(self, value: float) -> None:
        """Count a step without a finite gradient; too many of them in a row end the training."""
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= NON_FINITE_MAX:
            raise TrainingError(
                f"training: loss and gradient must be finite; {NON_FINITE_MAX} steps in a row were "
                f"not (last loss {value}, epoch {progress.epoch}, step {progress.step}); "
                f"lower learning_rate (now {self.settings.learning_rate}) or check the data"
            )

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step: warm-up, then a half cosine to 0, over all epochs."""
        total = self._chunks * self.settings.epochs
        warm_up = max(WARM_UP_SHARE * total, 1.0)
        if step < warm_up:
            return (step + 1) / warm_up
        share = (step - warm_up) / max(total - warm_up, 1.0)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    @torch.no_grad()
    def _evaluate(self, z: Tensor, linear: Tensor, mask: Tensor) -> float:
        """Return the loss on sequences, without noise and in float32."""
        self.network.eval()
        mean, log_sigma, _ = self.network(z[:, :-1], self._no_hidden(len(z)))
        return float(_loss(mean, log_sigma, z, linear, mask).item())

    def _no_hidden(self, rows: int) -> Tensor:
        return torch.zeros(1, rows, self.settings.hidden, device=self._device)

    def _copy_of_weights(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.network.state_dict().items()}

    def _tensors_of(self, sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        arrays = (sequences.z, sequences.linear, sequences.mask)
        z, linear, mask = (torch.from_numpy(array).to(self._device) for array in arrays)
        return z, linear, mask


def _loss(mean: Tensor, log_sigma: Tensor, z: Tensor, linear: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of the forecasts of each next event of `z`."""
    residual = z[:, 1:] - linear[:, 1:] - mean  # (B, T - 1, F)
    return loss(residual, log_sigma, mask[:, 1:])
