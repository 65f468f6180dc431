"""What all tests need before numpy is imported; helpers lie in folders beside the tests."""

import os

# One BLAS thread: the bits of a product depend on how it is divided among threads.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")
