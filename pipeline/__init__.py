"""Assembly and face of streamgauge: configuration, the graph, the commands.

Reading order: `config`, `graph`, `run`, `backtest`, `demo`, `cli`.
"""
