"""Sinks of encoded messages: a Kafka topic, or files of a replay.

Both take the output of an encoder in `transforms.messages`; what a message holds, and how it is
made smaller, only that room knows. Imports `transforms.{kafka,messages,metrics}` only.
"""
