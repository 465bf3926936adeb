"""Distributed checkpoints on two processes: one launch, every check a test of its own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import ranks

pytest.importorskip("torch")


@functools.cache
def answers() -> Any:
    return ranks.run("checks_dcp", 2, deadline_s=110.0)


@pytest.mark.parametrize("check", ranks.names("checks_dcp"))
def test_two_ranks(check: str) -> None:
    ranks.assert_ok(answers()[check])
