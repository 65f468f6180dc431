"""Training: from series to the parts of an artifact.

Reading order: `fit` (everything except the network), `offline` (score whole series), `trainer` and
`gru_network` (the network). Only the last two import torch.

May import: alerts, drift, events, forecast, kernel, state.
"""
