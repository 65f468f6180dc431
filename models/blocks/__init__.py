"""Blocks: events of one partition as columns, and the order in which shards receive them.

`block` and its wire format, `chain` (division into shards), `position` (state of a reader),
`event_clock` (event time of a partition), `scored_block` (the result of scoring).

May import: nothing but `models.errors`.
"""
