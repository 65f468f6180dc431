"""The exceptions of the local cluster.

    InfraError
    ├── MissingToolError     Java, Maven or pip is absent or too old
    ├── DownloadError        a one-time download failed; trying again is safe
    ├── PartError            a part of the cluster did not start or is not there
    └── FlinkRestError       Flink's REST API did not answer, or answered "no"

They stand apart from `models.errors` because infra imports no other layer. All of
them are the operator's to mend, so the command line ends with exit code 2.
"""

from __future__ import annotations


class InfraError(Exception):
    """Root of all errors of the local cluster; the text says how to mend it."""


class MissingToolError(InfraError):
    """A program this machine needs is missing or too old."""


class DownloadError(InfraError):
    """Jars could not be fetched; what was fetched so far is kept by the tools' caches."""


class PartError(InfraError):
    """A part of the cluster cannot start, died while starting, or is unknown."""


class FlinkRestError(InfraError):
    """Flink is unreachable, refused a request, or missed a deadline."""
