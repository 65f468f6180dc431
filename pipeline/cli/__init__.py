"""The command line: arguments, help texts and exit codes, no logic.

`main` holds the program and the commands about data; `cluster`, `jobs`, `training` and `state`
hold a group each; `options` holds what commands share. Commands import their room when they run.

May import every room of `pipeline`.
"""
