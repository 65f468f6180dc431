"""Runs the programs that a job needs: broker, Flink, Beam's job server and Python workers.

`local` is the cluster on this machine, `processes` starts and supervises its parts, `patches`
holds the changes to Beam and Flink, `flink_rest` queries a running Flink. `locks` and `docker`
hold the pinned dependencies and the images. May import: no other package of streamgauge.
"""
