"""Processes that outlive the command that started them.

`process` identifies, starts and stops one; `parts` describes a part of a cluster; `lifecycle`
starts and stops parts; `supervise` restarts one; `slowness` extends deadlines on a slow machine.
May import: infra.errors and infra.narrate.
"""
