"""The trainable part in torch: a GRU and the head that corrects the linear skip."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from streamgauge.models.kernel.step import LOG_SIGMA_MAX, LOG_SIGMA_MIN

# Student-t rather than Gaussian for training: telemetry has spikes, and one clipped
# spike of 20 sigma would weigh as much as 400 ordinary events.
FREEDOM = 5.0


class Network(nn.Module):
    """GRU over standard values; its hidden gives a correction and a sigma per feature."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.mean = nn.Linear(hidden, features)
        self.log_sigma = nn.Linear(hidden, features)
        nn.init.zeros_(self.mean.weight)  # begins as the linear skip alone
        nn.init.zeros_(self.mean.bias)
        nn.init.zeros_(self.log_sigma.weight)
        nn.init.zeros_(self.log_sigma.bias)

    def forward(self, z: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What to add to the linear forecast of each *next* event, log sigma, last hidden.

        Args:
            z: (B, T, F) standard values, finite.
            hidden: (1, B, H).
        """
        outputs, hidden = self.gru(z, hidden)  # (B, T, H)
        log_sigma = self.log_sigma(outputs).clamp(LOG_SIGMA_MIN, LOG_SIGMA_MAX)  # (B, T, F)
        # Mixed precision ends here; where there is none, `float` gives the tensor itself.
        return self.mean(outputs).float(), log_sigma.float(), hidden.float()

    def weights(self) -> dict[str, np.ndarray]:
        """GRU and head under the names of `models.forecaster.weight_shapes`."""
        tensors = {name: t.detach().cpu().numpy() for name, t in self.state_dict().items()}
        return {name.replace("_l0", ""): array.copy() for name, array in tensors.items()}


def loss(residual: Tensor, log_sigma: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of a Student-t per observed value, without its constant."""
    square = (residual * torch.exp(-log_sigma)).square()
    each = 0.5 * (FREEDOM + 1) * torch.log1p(square / FREEDOM) + log_sigma
    return (each * mask).sum() / mask.sum().clamp(min=1)
