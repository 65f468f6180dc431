"""Keeps peers out of collection: they run in environments of their own."""

collect_ignore_glob = ["peers/*"]
