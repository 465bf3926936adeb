"""random-k: the same places on every rank, so that sums stay sparse and nothing but values is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire.testing import run_ranks

COUNT = 40_000


def normal(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(COUNT).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_a_sum_has_the_places_of_one_rank_and_its_values_are_exact(size: int, algorithm: str) -> None:
    codec = gradwire.codec("randk(ratio=0.05, values=fp32, seed=3)")

    def rank(comm: Any) -> Any:
        residual = np.zeros(COUNT, np.float32)
        out = comm.all_reduce(normal(comm.rank), codec=codec, algorithm=algorithm, residual=residual)
        return out, residual

    answers = run_ranks(size, rank)
    result = answers[0][0]
    assert len({out.tobytes() for out, _ in answers}) == 1
    exact = sum(normal(r).astype(np.float64) for r in range(size))
    sent = np.flatnonzero(result) if size > 1 else np.arange(COUNT)
    if size > 1:
        assert 0.045 * COUNT < sent.size < 0.055 * COUNT
    np.testing.assert_allclose(result[sent], exact[sent], atol=size * size * 8 * 2.0**-24)
    owed = sum(residual.astype(np.float64) for _, residual in answers)
    np.testing.assert_allclose(result + owed, exact, atol=size * size * 8 * 2.0**-24)


def test_steps_draw_other_places_and_all_elements_get_their_turn_alike() -> None:
    codec = gradwire.codec("randk(ratio=0.1)")
    hits, steps = np.zeros(2 * 4096), 400
    ones = np.ones(hits.size, np.float32)
    for step in range(steps):
        hits += gradwire.decode(gradwire.encode(ones, codec, step=step)) != 0
    share = 410 / 4096
    # each element is a binomial of mean 40 and deviation 6; 8192 of them stay within 6 deviations
    deviation = np.sqrt(steps * share * (1 - share))
    assert abs(hits.mean() - steps * share) < 1e-9
    assert abs(hits - steps * share).max() < 6 * deviation
    # unbiased once scaled: the mean over steps of an element is met within 6 deviations, too
    assert abs(hits / steps / share - 1).max() < 6 * deviation / (steps * share)


def test_another_seed_draws_other_places() -> None:
    x = normal(0)
    a, b = (gradwire.decode(gradwire.encode(x, f"randk(seed={seed})")) for seed in (1, 2))
    assert 0 < np.count_nonzero(a) == np.count_nonzero(b)
    assert not np.array_equal(a, b)


def test_error_feedback_pays_every_element_in_time() -> None:
    def rank(comm: Any) -> Any:
        residual, paid = np.zeros(COUNT, np.float32), np.zeros(COUNT)
        for _ in range(60):
            paid += comm.all_reduce(normal(5), op="avg", codec="randk(ratio=0.2)", residual=residual)
        return paid

    paid = run_ranks(2, rank)[0]
    # an element waits 5 steps on average: 60 steps pay all but a tenth or so
    assert np.linalg.norm(paid / 60 - normal(5)) < 0.2 * np.linalg.norm(normal(5))
