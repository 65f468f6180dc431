"""Peers run in environments of their own; here their imports would fail."""

collect_ignore_glob = ["peers/*"]
