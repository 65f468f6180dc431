"""Runs what a job runs on: broker, Flink, Beam job server and Python workers.

Reading order: `cluster` (up, status, down), then the parts `kafka`, `flink` and
`workers`, below them `processes` (pid files, health, deadlines) and `jars`.
`embedded` is the small variant without a cluster, `flink_rest` asks a running
Flink. Nothing here knows what the job computes.
"""
