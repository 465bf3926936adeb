"""The DDP hook, the bucketer and local SGD on gradients in GPU memory, on real processes (tests/torch)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path[:0] = [str(Path(__file__).parent.parent / "torch")]
import ranks  # noqa: E402


@pytest.mark.parametrize("check", ranks.names("checks_gpu"))
def test_hook(check: str) -> None:
    ranks.assert_ok(check, "checks_gpu", 2)
