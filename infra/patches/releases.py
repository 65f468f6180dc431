"""The release of Beam that the patches were written for, and the refusal of any other."""

from __future__ import annotations

import apache_beam

from streamgauge.infra.errors import PatchError

BEAM = "2.70.0"


def require_known_beam() -> None:
    """Refuse to work with another release of Beam.

    Raises:
        PatchError: the installed Beam is another release.
    """
    if apache_beam.__version__ != BEAM:
        raise PatchError(
            f"workers need apache-beam=={BEAM}, for which infra/patches was tested; found"
            f" {apache_beam.__version__}: install the tested release, or follow"
            " infra/patches/README.md to adapt the patches"
        )
