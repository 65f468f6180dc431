"""The exceptions of the local cluster.

    InfraError
    ├── MissingToolError     Java, Maven or pip is absent or too old
    ├── DownloadError        a one-time download failed; trying again is safe
    ├── PatchError           Beam or Flink is not the release that a patch was written for
    ├── PartError            a part of the cluster did not start or is not there
    └── FlinkRestError       Flink's REST API did not answer, or answered "no"

They are separate from `models.errors` because infra imports no other package. The operator
can fix all of them, so the command line ends with exit code 2.
"""

from __future__ import annotations


class InfraError(Exception):
    """Root of all errors of the local cluster; the text says how to fix it."""


class MissingToolError(InfraError):
    """A program this machine needs is missing or too old."""


class DownloadError(InfraError):
    """Jars could not be fetched; Maven and pip keep what they have fetched so far."""


class PatchError(InfraError):
    """Beam or Flink is another release than the one that a patch was written for."""


class PartError(InfraError):
    """A part of the cluster cannot start, died while starting, or is unknown."""


class FlinkRestError(InfraError):
    """Flink is unreachable, refused a request, or missed a deadline."""
