"""Alerts: from scores to messages that open, update and close an alert.

Reading order: `policy` (settings), `decision` (the life of an alert), `budget` (how many messages),
`calibration` (score to rarity), `thresholds` (where budgets start), `transition` (the record).
Only this room assigns the alert and budget fields of an entity's row.

May import: blocks, simd, state. `policy` imports only errors.
"""
