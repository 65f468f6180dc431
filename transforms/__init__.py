"""Beam steps around the core: unpack the element, take the state, call the core, store, yield.

Reading order: `sources`, `score`, `messages`, `sinks`; `runner`, `kafka` and `metrics` serve them.
Elements between steps are bytes with a documented layout; nothing is pickled.
Imports `models` only.
"""
