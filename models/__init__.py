"""The pure core of streamgauge: no Beam, no Kafka, no clock, no environment.

Reading order. An event's way: `schema`, `event_rules`, `json_scan`, `json_events`,
`arrow_events`, `decode`, `block`, `chain`, `scorer`, `alerting`, `drift`, `drift_windows`. Its
entity's memory: `row`, `table`, `cells`, `segment`, `epoch`, `shard_log`, `slices`, `position`,
`shard`. The model: `spec`, `normaliser`, `linear`, `forecaster`, `selftest`, `calibration`,
`artifact`. What is compiled: `wide`, `product`, `memory`, `elementary`, `workspace`, `kernel`,
`budget`, `judge`, `stepping`, `native`. How a model is made: `series`, `sequences`, `network`,
`fitting`, `training`. Errors: `errors`.
"""
