"""Coded links between pipeline stages, on real processes: one launch a file of checks, each check a test."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import ranks

pytest.importorskip("torch")


@functools.cache
def answers() -> Any:
    return ranks.run("checks_pipeline", 2, deadline_s=110.0)


@pytest.mark.parametrize("check", ranks.names("checks_pipeline"))
def test_two_stages(check: str) -> None:
    ranks.assert_ok(answers()[check])


@pytest.mark.parametrize("check", ranks.names("checks_pipeline_fault"))
def test_a_stage_is_lost(check: str) -> None:
    ranks.assert_ok(ranks.run("checks_pipeline_fault", 2, deadline_s=60.0, tolerate=(1,))[check])
