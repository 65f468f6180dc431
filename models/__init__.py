"""The pure core of streamgauge: no Beam, no Kafka, no clock, no environment.

Reading order. An event's way: `schema`, `event_rules`, `json_events`, `arrow_events`,
`decode`, `block`, `chain`, `scorer`, `alerting`, `drift`, `drift_windows`. Its entity's
memory: `table`, `segment`, `epoch`, `position`, `shard`. The model: `normaliser`,
`linear`, `kernel`, `forecaster`, `selftest`, `calibration`, `artifact`. How it is made:
`series`, `sequences`, `network`, `fitting`, `training`. Errors: `errors`.
"""
