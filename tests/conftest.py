"""What every test relies on: a clean environment, and that nothing is left behind."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before NumPy and torch are imported: ranks are threads and processes here, and share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tester's own settings must not decide whether a test passes. Where GPU tests run, is asked for.
for _name in [name for name in os.environ if name.startswith("GRADWIRE_") and name != "GRADWIRE_GPU"]:
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
    gpu = _native.gpu.status()["text"]
    return f"gradwire {gradwire.__version__}, kernels {_native.isa()}, torch {torch_version}, gpu: {gpu}"


def _shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {p.name for p in folder.iterdir() if "gradwire" in p.name} if folder.is_dir() else set()


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_in_dev_shm() -> Iterator[None]:
    before = _shared_memory()
    yield
    assert _shared_memory() <= before, "a test left shared memory behind"


sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
_labs = itertools.count()


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Any]]:
    """make_lab(hosts, rate): hosts on cables of their own (benchmarks/lab.py); skips where not allowed."""
    import lab

    problem = lab.why_not()
    if problem:
        pytest.skip(f"no network lab: {problem}")
    made: list[lab.Lab] = []

    def make(hosts: int, rate: str | None = None) -> lab.Lab:
        # a name of its own each time: the kernel takes a moment to forget the devices of a deleted namespace
        made.append(lab.Lab(hosts, rate, name=f"gwt{os.getpid() % 100000}x{next(_labs)}x"[:13]))
        made[-1].up()
        return made[-1]

    yield make
    for one in made:
        one.down()
