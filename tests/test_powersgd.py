"""PowerSGD on NumPy arrays: the arithmetic, the averages, what is owed, and the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import _native
from gradwire.testing import run_ranks

Floats = npt.NDArray[np.float32]
SHAPES = {"weight": (96, 64), "bias": (96,), "conv": (32, 4, 3, 3), "tiny": (2, 3), "tall": (301, 17)}


def gradients(rank: int, step: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng([rank, step])
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def factor(rank: int, length: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rank, length)).astype(np.float32)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(
    ("rows", "cols", "rank"), [(1, 1, 1), (3, 5, 2), (65, 1031, 7), (130, 16, 4), (7, 0, 1)]
)
def test_products_are_those_of_numpy_and_alike_on_every_instruction_set(
    isa: str, rows: int, cols: int, rank: int
) -> None:
    m, q = factor(rows, cols, 1), factor(rank, cols, 2)

    def all_of() -> list[Any]:
        p, back = np.empty((rank, rows), np.float32), np.empty((rank, cols), np.float32)
        left, out = m.copy(), np.empty_like(m)
        _native.low_rank_project(m, q, p)
        _native.low_rank_back_project(m, p, back)
        _native.low_rank_restore(p, q, left, out)
        ortho = p.copy()
        count = _native.orthonormalize(ortho)
        return [p, back, out, left, ortho, count]

    p, back, out, left, *_ = usual = all_of()
    # a sum of n products of fp32 errs by at most n ulp of the sum of magnitudes
    close = lambda got, want, size, n: (np.abs(got - want) <= n * 2.0**-23 * size + 1e-30).all()  # noqa: E731
    wide, abs_m = m.astype(np.float64), np.abs(m).astype(np.float64)
    assert close(p, (wide @ q.T.astype(np.float64)).T, (abs_m @ np.abs(q).T).T, cols)
    assert close(back, p.astype(np.float64) @ wide, np.abs(p) @ abs_m, rows)
    assert close(out, p.T.astype(np.float64) @ q, np.abs(p).T.astype(np.float64) @ np.abs(q), rank)
    np.testing.assert_array_equal(left, m - out)
    before = _native.isa()
    try:
        _native.use_isa(isa)
        for a, b in zip(all_of(), usual):
            np.testing.assert_array_equal(a, b)
    finally:
        _native.use_isa(before)


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_columns_become_orthonormal_at_every_scale(scale: float) -> None:
    p = factor(6, 500) * np.float32(scale)
    p[1] = p[0] + p[1] * np.float32(2.0**-10)  # nearly dependent
    assert _native.orthonormalize(p) == 6
    # fp32 storage of unit vectors: each product of two is met to a few ulp
    np.testing.assert_allclose(p @ p.T, np.eye(6), atol=2.0**-20)


def test_a_dependent_column_becomes_zero_and_a_nan_takes_all() -> None:
    p = factor(4, 100)
    p[2] = p[0] * 3 - p[1]
    assert _native.orthonormalize(p) == 3
    assert not p[2].any()
    p[1, 5] = np.inf
    assert _native.orthonormalize(p) == 0
    assert np.isnan(p).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_replicas_are_equal_and_what_is_lost_is_owed(size: int) -> None:
    def rank(comm: Any) -> Any:
        reducer, outs = gradwire.PowerSGD(rank=2), []
        for step in range(3):
            g = gradients(comm.rank, step)
            reducer.all_reduce(comm, g)
            outs.append(g)
        return outs, reducer.state_dict(comm.rank, comm.size)

    answers = run_ranks(size, rank)
    for name, shape in SHAPES.items():
        for step in range(3):
            assert len({outs[step][name].tobytes() for outs, _ in answers}) == 1, name
        exact = sum(gradients(r, s)[name].astype(np.float64) for r in range(size) for s in range(3))
        got = sum(answers[0][0][s][name].astype(np.float64) for s in range(3)) * size
        owed = np.zeros(shape)
        for r, (_, state) in enumerate(answers):
            if f"rank{r}/{name}" in state:
                owed += state[f"rank{r}/{name}"].reshape(shape)
        coded = gradwire.PowerSGD(rank=2).compresses(shape)
        assert coded == bool(owed.any()), name
        # a rank rounds twice a step, at values below 16
        np.testing.assert_allclose(got + owed, exact, atol=size * 3 * 2 * 16 * 2.0**-24)


def test_a_matrix_of_low_rank_is_met_and_error_feedback_pays_the_rest() -> None:
    rng = np.random.default_rng(0)
    target = (rng.standard_normal((80, 2)) @ rng.standard_normal((2, 60))).astype(np.float32)
    full = rng.standard_normal((80, 60)).astype(np.float32)

    def rank(comm: Any) -> Any:
        low, reducer, paid = target.copy(), gradwire.PowerSGD(rank=2), np.zeros((80, 60))
        gradwire.PowerSGD(rank=2).all_reduce(comm, {"low": low})
        for _ in range(60):
            g = full.copy()
            reducer.all_reduce(comm, {"full": g})
            paid += g
        return low, paid

    low, paid = run_ranks(2, rank)[0]
    np.testing.assert_allclose(low, target, atol=1e-4 * np.abs(target).max())
    # the residual stays bounded, so the mean of the steps converges to the gradient as 1 / steps
    assert np.linalg.norm(paid / 60 - full) < 0.5 * np.linalg.norm(full)


def test_a_restored_state_goes_on_with_the_same_bits() -> None:
    def rank(comm: Any) -> Any:
        whole, first, second = (gradwire.PowerSGD(rank=1) for _ in range(3))
        for step in range(4):
            a, b = gradients(comm.rank, step), gradients(comm.rank, step)
            whole.all_reduce(comm, a)
            if step == 2:
                second.load_state_dict(first.state_dict(comm.rank, comm.size), comm.rank, comm.size)
            (first if step < 2 else second).all_reduce(comm, b)
        return [a[n].tobytes() == b[n].tobytes() for n in SHAPES]

    assert all(map(all, run_ranks(2, rank)))


@pytest.mark.parametrize("new_size", [1, 2, 3, 5])
def test_a_state_of_another_world_size_conserves_what_is_owed_to_the_average(new_size: int) -> None:
    def rank(comm: Any) -> Any:
        reducer = gradwire.PowerSGD(rank=1)
        reducer.all_reduce(comm, gradients(comm.rank))
        return reducer.state_dict(comm.rank, comm.size)

    states = run_ranks(3, rank)
    merged = {k: v for state in states for k, v in state.items()}
    for name in ("weight", "conv"):
        old = sum(states[r][f"rank{r}/{name}"].astype(np.float64) for r in range(3)) / 3
        new = np.zeros_like(old)
        for r in range(new_size):
            reducer = gradwire.PowerSGD(rank=1)
            reducer.load_state_dict(merged, r, new_size)
            new += reducer.state_dict(r).get(f"rank{r}/{name}", np.zeros_like(old)) / new_size
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_step_of_zeros_or_nan_does_not_spoil_the_next(bad: float) -> None:
    def rank(comm: Any) -> Any:
        reducer = gradwire.PowerSGD(rank=1)
        g = {"w": np.full((64, 64), bad, np.float32)}
        reducer.all_reduce(comm, g)
        spoilt = g["w"].copy()
        g["w"][:] = np.outer(np.arange(64), np.ones(64))
        reducer.all_reduce(comm, g)
        return spoilt, g["w"]

    spoilt, after = run_ranks(2, rank)[0]
    assert not spoilt.any() if bad == 0 else np.isnan(spoilt).all()
    np.testing.assert_allclose(after, np.outer(np.arange(64), np.ones(64)), atol=1e-3)


def test_what_makes_no_sense_is_refused() -> None:
    for call in (
        lambda: gradwire.PowerSGD(rank=0),
        lambda: gradwire.PowerSGD.parse("powersgd(rang=2)"),
        lambda: gradwire.PowerSGD.parse("powersgd(rank=two)"),
        lambda: gradwire.PowerSGD().all_reduce(None, {"w": np.zeros((4, 4), np.float64)}),
        lambda: gradwire.PowerSGD().all_reduce(None, {"w": np.zeros((64, 64), np.float32)[:, ::2]}),
        lambda: _native.orthonormalize(np.zeros(4, np.float32)),
        lambda: _native.low_rank_project(factor(2, 3), factor(1, 4), factor(1, 2)),
    ):
        with pytest.raises(gradwire.ArgumentError):
            call()
    assert gradwire.PowerSGD.parse("int8") is None
    assert str(gradwire.PowerSGD.parse("powersgd(rank=3, warm_start=False)")) == "powersgd(rank=3)"
