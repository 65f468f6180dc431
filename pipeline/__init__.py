"""Assembly of streamgauge: configuration, the Beam graph, and the commands of the user.

Reading order: `config` (all settings), `graph` (the job on one page), `jobs` (run it), `replay`
(backtest and demo), `audit`, `evaluation`, `training`, `report`, `cli`.

May import: models, transforms, infra. `config` imports only policies of models.
"""
