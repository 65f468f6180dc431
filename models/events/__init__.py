"""Events: from the bytes of Kafka messages to a block, and to dead letters.

Read `schema` and `validation` (the rules) first, then `decoder`, which uses `json_decoder` with
`json_scanner`, and `arrow_decoder` with `arrow_framing` (what a message unpacks to) and
`arrow_columns` (types). `series` is the telemetry of one entity for training.

May import: simd, blocks.
"""
