"""The DDP hook, the bucketer and local SGD on gradients in GPU memory, on real processes (tests/torch)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path[:0] = [str(Path(__file__).parent.parent / "torch")]
import ranks  # noqa: E402


@pytest.mark.parametrize("check", ranks.names("checks_gpu"))
def test_hook(check: str) -> None:
    ranks.assert_ok(check, "checks_gpu", 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU; its streams are not simulated")
@pytest.mark.parametrize("check", ranks.names("checks_gpu_streams"))
def test_streams_of_the_hook(check: str) -> None:
    ranks.assert_ok(check, "checks_gpu_streams", 2)
