"""FSDP2 and HSDP on four processes: one launch, every check a test of its own."""

from __future__ import annotations

import pytest
import ranks

pytest.importorskip("torch")
CHECKS = "checks_fsdp checks_fsdp_state"


@pytest.mark.parametrize("check", ranks.names(CHECKS))
def test_four_ranks(check: str) -> None:
    ranks.assert_ok(check, CHECKS, 4)
