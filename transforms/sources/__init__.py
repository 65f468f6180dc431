"""Sources of telemetry: the live topic, a range of it, an archive of blocks.

Each source yields (shard key, encoded block) pairs, and dead letters under a tag.
`source` holds what the live source and the replay share; `keep_alive` drives the live one.
Imports `transforms.kafka`, `messages`, `runner`, `metrics`, and `models.blocks`, `models.events`.
"""
