"""Verification of scores against the log.

`audit` is the command, `score_log` reads the scores topic, `rescore` computes scores again, and
`report` compares them.

May import `console`, `config`, `graph` and `jobs`.
"""
