"""The detector that all GRU peers share: one GRU step and a linear head, in numpy.

Score of an event: the mean squared difference between the event and the prediction that the
head made from the hidden vector before it. Gates in torch's order and form
(`torch.nn.GRUCell`). One event is a batch of one: at that size plain numpy takes half the
time of torch or ONNX Runtime, so it slows no peer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "head_weight", "head_bias")


class Gru:
    """Weights (3H, F), (3H, H), (3H,), (3H,), (F, H), (F,), and the step."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        ih, hh, bias_ih, bias_hh, head, self.head_bias = (weights[name] for name in NAMES)
        self.hidden, self.features = hh.shape[1], ih.shape[1]
        self._ih, self._bias_ih = np.ascontiguousarray(ih.T), bias_ih
        # Head and recurrent weights multiply the same hidden vector: one product for both.
        self._from_hidden = np.ascontiguousarray(np.vstack([hh, head]).T)  # (H, 3H + F)
        self._bias_hidden = np.concatenate([bias_hh, self.head_bias])

    @classmethod
    def load(cls, path: Path) -> Gru:
        """Read the weights that the benchmark wrote."""
        with np.load(path) as arrays:
            return cls(dict(arrays))

    def step(self, x: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,) of events (B, F) against `hidden` (B, H), and the hidden vectors after."""
        size = self.hidden
        from_x = x @ self._ih  # (B, 3H)
        from_x += self._bias_ih
        from_hidden = hidden @ self._from_hidden  # (B, 3H + F)
        from_hidden += self._bias_hidden
        error = x - from_hidden[:, 3 * size :]
        score = np.einsum("bf,bf->b", error, error) / self.features
        gates = from_x[:, : 2 * size]
        gates += from_hidden[:, : 2 * size]
        gates *= 0.5  # sigmoid(v) = (1 + tanh(v / 2)) / 2
        np.tanh(gates, out=gates)
        gates += 1.0
        gates *= 0.5
        new = from_hidden[:, 2 * size : 3 * size]
        new *= gates[:, :size]
        new += from_x[:, 2 * size :]
        np.tanh(new, out=new)
        after = hidden - new
        after *= gates[:, size:]
        after += new
        return score, after
