"""The compiled arithmetic of the model: scores a group of events and advances their rows.

Reading order: `buffers` (inputs and memory), `step` (one group of up to 16 entities), `season`
(part of the day), `batch` (one event per row, for training and self-test).

May import: simd, state.
"""
