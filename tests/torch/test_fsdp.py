"""FSDP2 and HSDP on four processes: one launch, every check a test of its own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import ranks

pytest.importorskip("torch")


@functools.cache
def answers() -> Any:
    return ranks.run("checks_fsdp", 4, deadline_s=110.0)


@pytest.mark.parametrize("check", ranks.names("checks_fsdp"))
def test_four_ranks(check: str) -> None:
    ranks.assert_ok(answers()[check])
