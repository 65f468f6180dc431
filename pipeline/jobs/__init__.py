"""The live job: checks before it starts, submission, stopping, and its exported state.

`run` submits, `doctor` and `preflight` check, `resume` finds and checks the state to start from,
`claim` holds the name of the job, `broker` and `ranges` ask Kafka, `sample` looks at the
newest messages, `flink_options` configures the runner, `exported_state` handles snapshots.

May import `console`, `config`, `graph`, `infra.flink_rest` and `infra.local`.
"""
