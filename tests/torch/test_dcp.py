"""Distributed checkpoints on two processes: one launch, every check a test of its own."""

from __future__ import annotations

import pytest
import ranks

pytest.importorskip("torch")


@pytest.mark.parametrize("check", ranks.names("checks_dcp"))
def test_two_ranks(check: str) -> None:
    ranks.assert_ok(check, "checks_dcp", 2)


@pytest.mark.parametrize("check", ranks.names("checks_incremental"))
def test_chains_on_two_ranks(check: str) -> None:
    ranks.assert_ok(check, "checks_incremental", 2)
