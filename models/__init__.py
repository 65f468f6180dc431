"""The pure core of streamgauge: no Beam, no Kafka, no clock, no environment.

Rooms, in the order of an event: `events` (decode), `blocks` (columns, chain), `scoring` (policies,
waves, shards), `kernel` and `forecast` (the model), `alerts`, `drift`. `state` holds what an entity
remembers, `artifacts` and `training` make models, `simd` is the compiled ground floor.

May import: no other package of streamgauge. Each room names the rooms that it may import.
"""
