"""Bounded runs of the graph into files: backtest and demo.

`runner` runs the graph, `tap` shows its messages meanwhile; `backtest` replays a range of a
topic, `demo` the bundled telemetry.

May import `console`, `config`, `graph`, `jobs`, `report`, `data` and `alerts`.
"""
