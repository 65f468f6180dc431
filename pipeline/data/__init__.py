"""Data sets: reading them from folders and sending them to Kafka.

`datasets` reads, with `parquet_columns`; `labels` finds runs of labelled events, `payloads`
encodes messages, `malformed` makes events malformed, `produce` sends.

May import `console` and `jobs`.
"""
