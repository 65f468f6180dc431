"""Puts the helpers beside the tests on the path; there is no package here on purpose."""

import os
import sys
from pathlib import Path

# One BLAS thread, before numpy is imported: the tile rule needs it (design: equal bits).
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

sys.path.insert(0, str(Path(__file__).parent))
