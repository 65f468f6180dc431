"""Scoring: blocks of events against the entity tables of shards.

Reading order: `policy` (settings), `scorer` (one block, one table), `waves` (its compiled loop),
`shard` (one shard: order, score, store).

May import: alerts, artifacts, blocks, drift, kernel, simd, state. `policy` imports only errors.
"""
