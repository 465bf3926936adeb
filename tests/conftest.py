"""What every test relies on: a clean environment, and that nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before NumPy and torch are imported: ranks are threads and processes here, and share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tester's own settings must not decide whether a test passes.
for _name in [name for name in os.environ if name.startswith("GRADWIRE_")]:
    del os.environ[_name]

try:
    import gradwire
    from gradwire import _native
except ImportError as e:
    pytest.exit(f"gradwire cannot be imported ({e}): run `make dev`, or `make test`, which does it", 3)


def pytest_report_header() -> str:
    try:
        import torch

        torch_version = torch.__version__
    except ImportError:
        torch_version = "absent, its tests are skipped"
    return f"gradwire {gradwire.__version__}, kernels {_native.isa()}, torch {torch_version}"


def _shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {p.name for p in folder.iterdir() if "gradwire" in p.name} if folder.is_dir() else set()


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_in_dev_shm() -> Iterator[None]:
    before = _shared_memory()
    yield
    assert _shared_memory() <= before, "a test left shared memory behind"
