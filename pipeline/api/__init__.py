"""The Python API: scoring frames, and reading alerts and scores from their topics.

`streamgauge/__init__.py` loads its functions at their first use. `frames` reads pandas, polars
and pyarrow tables, `scoring` scores them, `topics` reads topics up to their current end.

May import `alerts`, `config` and `jobs`.
"""
