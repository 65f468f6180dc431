"""The network in torch: a GRU and a head that corrects the linear forecast."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamgauge.models.kernel.step import LOG_SIGMA_MAX, LOG_SIGMA_MIN

# Training uses a Student-t likelihood. With a Gaussian, one clipped spike of 20 sigma would weigh
# as much as 400 ordinary events.
FREEDOM = 5.0


class Network(nn.Module):
    """GRU over standard values; its hidden vector gives a correction and a sigma per feature."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.mean = nn.Linear(hidden, features)
        self.log_sigma = nn.Linear(hidden, features)
        nn.init.zeros_(self.mean.weight)  # the first forecast is that of the linear part
        nn.init.zeros_(self.mean.bias)
        nn.init.zeros_(self.log_sigma.weight)
        nn.init.zeros_(self.log_sigma.bias)

    def forward(self, z: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the correction of the forecast of each next event, log sigma, and last hidden.

        Args:
            z: (B, T, F) standard values, finite.
            hidden: (1, B, H).
        """
        outputs, hidden = self.gru(z, hidden)  # (B, T, H)
        log_sigma = self.log_sigma(outputs).clamp(LOG_SIGMA_MIN, LOG_SIGMA_MAX)  # (B, T, F)
        # Mixed precision ends here. Without it, `float` returns the tensor itself.
        return self.mean(outputs).float(), log_sigma.float(), hidden.float()

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the weights named as in `models.forecast.forecaster.weight_shapes`."""
        tensors = {name: t.detach().cpu().numpy() for name, t in self.state_dict().items()}
        return {name.replace("_l0", ""): array.copy() for name, array in tensors.items()}


def loss(residual: Tensor, log_sigma: Tensor, mask: Tensor) -> Tensor:
    """Return the negative log-likelihood of a Student-t per observed value, without constant."""
    square = (residual * torch.exp(-log_sigma)).square()
    each = 0.5 * (FREEDOM + 1) * torch.log1p(square / FREEDOM) + log_sigma
    return (each * mask).sum() / mask.sum().clamp(min=1)
