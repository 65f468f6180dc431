"""The cluster on this machine, and the embedded Flink without one.

`cluster` has up, status and down; `kafka`, `flink` and `workers` describe the parts; `jars` and
`downloads` provide Java's jars; `worker_pool` runs as a process. May import: infra.processes,
infra.patches, infra.flink_rest, infra.narrate and infra.errors.
"""
