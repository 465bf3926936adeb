"""The DDP hook on real processes. Checks share a launch; every one is a test of its own here."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import ranks

pytest.importorskip("torch")

DEADLINE_S = 110.0


@functools.cache
def answers(module: str, size: int) -> Any:
    killed = (2,) if module == "checks_three" else ()
    return ranks.run(module, size, DEADLINE_S, tolerate=killed)


@pytest.mark.parametrize("check", ranks.names("checks_modes"))
def test_modes(check: str) -> None:
    ranks.assert_ok(answers("checks_modes", 2)[check])


HOOK = "checks_hook checks_compile"


@pytest.mark.parametrize("check", ranks.names(HOOK))
def test_hook(check: str) -> None:
    ranks.assert_ok(answers(HOOK, 2)[check])


@pytest.mark.parametrize("check", ranks.names("checks_three"))
def test_three_ranks(check: str) -> None:
    ranks.assert_ok(answers("checks_three", 3)[check])


@pytest.mark.parametrize("check", ranks.names("checks_policy"))
def test_policy(check: str) -> None:
    ranks.assert_ok(answers("checks_policy", 2)[check])


@pytest.mark.parametrize("check", ranks.names("checks_bucketer"))
def test_bucketer(check: str) -> None:
    ranks.assert_ok(answers("checks_bucketer", 2)[check])


@pytest.mark.parametrize("check", ranks.names("checks_next_batch"))
def test_next_batch(check: str) -> None:
    ranks.assert_ok(answers("checks_next_batch", 2)[check])


@pytest.mark.parametrize("check", ranks.names("checks_local_sgd"))
def test_local_sgd(check: str) -> None:
    ranks.assert_ok(answers("checks_local_sgd", 2)[check])


@pytest.mark.parametrize("check", ranks.names("checks_amp"))
def test_amp(check: str) -> None:
    ranks.assert_ok(answers("checks_amp", 2)[check])


@pytest.mark.parametrize("check", ranks.names("checks_cycles"))
def test_cycles(check: str) -> None:
    ranks.assert_ok(answers("checks_cycles", 2)[check])
