"""Alerts for people: following the alert topic.

`tail` prints each alert once, as text or as JSON.

May import `console` and `jobs`.
"""
