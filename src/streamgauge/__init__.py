"""Streaming anomaly detection per entity: Kafka in, explained alerts out.

    import streamgauge as sg

    artifact = sg.load_artifact("my-artifact")
    scores = sg.score_frame(artifact, frame)

The names in `__all__` are the Python API (docs/python.md). They are loaded at their first use, so
`import streamgauge` loads nothing large.

The four packages lie at the top of the repository; the links beside this file give them their
full names, `streamgauge.models` and so on, in a checkout as in an installation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamgauge.models.errors import ArtifactError, ConfigError, StreamgaugeError
    from streamgauge.pipeline.api.scoring import load_artifact, score_frame
    from streamgauge.pipeline.api.topics import read_alerts, read_scores

__all__ = [
    "ArtifactError",
    "ConfigError",
    "StreamgaugeError",
    "__version__",
    "load_artifact",
    "read_alerts",
    "read_scores",
    "score_frame",
]
#: Also read by setup.py.
__version__ = "0.1.0"

_MODULES = {
    "ArtifactError": "models.errors",
    "ConfigError": "models.errors",
    "StreamgaugeError": "models.errors",
    "load_artifact": "pipeline.api.scoring",
    "read_alerts": "pipeline.api.topics",
    "read_scores": "pipeline.api.topics",
    "score_frame": "pipeline.api.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'streamgauge' has no attribute {name!r}")
    try:
        return getattr(import_module(f"streamgauge.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "streamgauge"):
            raise
        raise ModuleNotFoundError(
            f"streamgauge.{name} needs {library}, which is not installed; "
            "`pip install 'streamgauge[run]'` installs it",
            name=error.name,
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
