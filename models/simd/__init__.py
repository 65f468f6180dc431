"""Vector instructions and compiled building blocks, as a library under numba.

Sixteen-lane vectors, matrix products, prefetching, elementary functions, and the cache of
machine code. Nothing here knows telemetry. Read README.md first.

May import: nothing of streamgauge.
"""
