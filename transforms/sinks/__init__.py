"""Sinks of encoded messages: a Kafka topic, or files of a replay.

Both take the output of an encoder in `transforms.messages` and do not look into messages.
Imports `transforms.kafka` and `transforms.messages.outgoing` only.
"""
