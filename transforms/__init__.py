"""Beam shells around the pure core: unpack, take the state, call the core, store, yield.

Every edge between steps is bytes with an explicit layout; nothing is ever pickled.
Reading order: `keys`, `outgoing`, `kafka`, `read`, `replay`, `score`, `alert`, `drift`, `write`.
"""
