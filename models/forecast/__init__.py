"""The model: forecasts the next event of an entity and scores the event that arrives.

Reading order: `spec` (shape and settings), `normaliser`, `linear`, `forecaster`, `packing` (the
model for compiled code), `self_test` (equal bits on every machine).

May import: events (schema), kernel, simd, state.
"""
