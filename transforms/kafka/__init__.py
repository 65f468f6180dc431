"""Kafka clients: credentials, administration, producing, consuming.

`access` is the only module that knows a credential and the only one that constructs a client;
the other modules configure clients for one task each.
Imports `models.errors` and `models.events` only.
"""
