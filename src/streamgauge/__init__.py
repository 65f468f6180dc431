"""Streaming anomaly detection per entity: Kafka in, explained alerts out.

The four packages lie at the top of the repository; the links beside this file give them their
full names, `streamgauge.models` and so on, in a checkout as in an installation.
"""
