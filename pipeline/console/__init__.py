"""Text for people: numbers, times, progress, and pages with generated parts.

`formatting`, `progress` (with the type `Narrate` of all commands) and `markdown`.

May import `models` only.
"""
