"""What the runner keeps for a shard: its keys, its state cells, and its snapshots outside Beam.

Nothing here knows what an event or a score is.
Imports `models.state` and `models.errors` only.
"""
