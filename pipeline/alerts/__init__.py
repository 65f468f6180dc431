"""Alerts for people: following the alert topic.

`tail` prints each alert once, as text or as JSON. `filters` decides which ones a person wants.

May import `console` and `jobs`.
"""
