"""GPU tests run on the GPU there is, or with GRADWIRE_GPU=sim on a CPU, in three orders of threads."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradwire
from gradwire import _native

STATUS = _native.gpu.status()
ORDERS = {"forward": 0, "reverse": 1, "random": 2} if STATUS["simulated"] else {"gpu": 0}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cuda/" in str(item.path) and not STATUS["usable"]:
            item.add_marker(pytest.mark.skip(reason=f"{STATUS['text']}; or GRADWIRE_GPU=sim make test"))


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> Iterator[str]:
    """In what order the simulator runs threads and blocks; on a GPU there is only its own."""
    if not STATUS["simulated"]:
        yield "gpu"
        return
    simulator = ctypes.CDLL(str(Path(gradwire.__file__).parent / "libgradwire_cusim.so"))
    simulator.gradwire_cusim_order(ORDERS[request.param], 7)
    yield request.param
    simulator.gradwire_cusim_order(0, 1)
