"""What users run: configuration, the graph, and the commands.

Reading order: `config`, `graph`, `jobs`, `replay`, `cli`. Each folder is one room; its docstring
says what lives there and which rooms it may import. Every room may import `models` and
`transforms`; only `jobs` and `cli` import `infra`.
"""
