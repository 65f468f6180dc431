"""The pure core of streamgauge: no Beam, no Kafka, no clock, no environment.

Reading order: `errors`, `schema`, `block`, `decode`, `chain`, `table`, `normaliser`,
`forecaster`, `scorer`, `alerting`, `calibration`, `drift`, `artifact`, `training`.
"""
