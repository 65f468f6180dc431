"""The HTML report about scores, alerts and labels.

`summary` computes the figures, `plots` the curves, `page` renders them with `page.html`.

May import `console` and `data`.
"""
