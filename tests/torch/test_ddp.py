"""The DDP hook on real processes. Checks share a launch; every one is a test of its own here."""

from __future__ import annotations

import pytest
import ranks

pytest.importorskip("torch")


@pytest.mark.parametrize("check", ranks.names("checks_modes"))
def test_modes(check: str) -> None:
    ranks.assert_ok(check, "checks_modes", 2)


HOOK = "checks_hook checks_compile"


@pytest.mark.parametrize("check", ranks.names(HOOK))
def test_hook(check: str) -> None:
    ranks.assert_ok(check, HOOK, 2)


@pytest.mark.parametrize("check", ranks.names("checks_three"))
def test_three_ranks(check: str) -> None:
    ranks.assert_ok(check, "checks_three", 3, tolerate=(2,))


@pytest.mark.parametrize("check", ranks.names("checks_policy"))
def test_policy(check: str) -> None:
    ranks.assert_ok(check, "checks_policy", 2)


@pytest.mark.parametrize("check", ranks.names("checks_bucketer"))
def test_bucketer(check: str) -> None:
    ranks.assert_ok(check, "checks_bucketer", 2)


@pytest.mark.parametrize("check", ranks.names("checks_next_batch"))
def test_next_batch(check: str) -> None:
    ranks.assert_ok(check, "checks_next_batch", 2)


@pytest.mark.parametrize("check", ranks.names("checks_local_sgd"))
def test_local_sgd(check: str) -> None:
    ranks.assert_ok(check, "checks_local_sgd", 2)


@pytest.mark.parametrize("check", ranks.names("checks_amp"))
def test_amp(check: str) -> None:
    ranks.assert_ok(check, "checks_amp", 2)


@pytest.mark.parametrize("check", ranks.names("checks_cycles"))
def test_cycles(check: str) -> None:
    ranks.assert_ok(check, "checks_cycles", 2)
