"""The live job: checks before it starts, submission, stopping, and its exported state.

`run` submits, `doctor` and `preflight` check, `broker` and `ranges` ask Kafka, `flink_options`
configures the runner, `exported_state` handles snapshots.

May import `console`, `config`, `graph`, `infra.flink_rest` and `infra.local`.
"""
