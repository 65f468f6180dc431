"""Settings that all tests need before numpy is imported, and time limits that fit this machine."""

import os

import pytest

# Doctests are collected from product code; a second copy of a fixture would register twice.
collect_ignore = ["fixtures"]

# One BLAS thread: the bits of a product depend on how it is divided among threads.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from fixtures.deadlines import deadline  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Extend pytest-timeout's limit, unless the command line names one."""
    if getattr(config.option, "timeout", None) is None:
        config.option.timeout = deadline(float(config.getini("timeout")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Extend the limits of tests that name one."""
    for item in items:
        limit = item.get_closest_marker("timeout")
        if limit is not None:
            item.add_marker(pytest.mark.timeout(deadline(limit.args[0])), append=False)
