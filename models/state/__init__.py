"""State: what a shard remembers, in memory, in the cells of the runner, and in files.

Reading order: `entity_row` (one entity), `entity_table` (one shard), `epoch` (which state is
valid), `ordering` (which block is next); `cells`, `segment`, `log`, `incremental_snapshot` (the
log of a shard in its runner); `snapshot_file` (the state of a shard as Parquet).

May import: blocks.
"""
