"""Artifacts: a trained model as a directory that proves its content.

`artifact` writes, verifies and loads it; the SHA-256 of its manifest is the version of the model.
Only this room of the core touches the file system.

May import: alerts, drift, events, forecast, state.
"""
