"""Coded links between pipeline stages, on real processes: one launch a file of checks, each check a test."""

from __future__ import annotations

import pytest
import ranks

pytest.importorskip("torch")


@pytest.mark.parametrize("check", ranks.names("checks_pipeline"))
def test_two_stages(check: str) -> None:
    ranks.assert_ok(check, "checks_pipeline", 2)


@pytest.mark.parametrize("check", ranks.names("checks_pipeline_fault"))
def test_a_stage_is_lost(check: str) -> None:
    ranks.assert_ok(check, "checks_pipeline_fault", 2, tolerate=(1,), deadline_s=60.0)
