"""Sparse all-reduce of the largest values of a whole array, and the packed places it sends."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import GlobalTopK, _native
from gradwire.errors import ArgumentError, FrameError
from gradwire.testing import run_ranks

COUNT = 30_011
Floats = npt.NDArray[np.float32]


def gradient(rank: int, step: int = 0) -> Floats:
    rng = np.random.default_rng([rank, step])
    return (rng.standard_normal(COUNT) * np.exp(rng.standard_normal(COUNT))).astype(np.float32)


def largest(x: Floats, k: int) -> npt.NDArray[np.int64]:
    return np.sort(np.argsort(-np.abs(x), kind="stable")[:k])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize("values", ["fp32", "bf16", "int8"])
def test_replicas_are_equal_and_what_is_dropped_is_owed(size: int, values: str) -> None:
    def rank(comm: Any) -> Any:
        reducer, outs = GlobalTopK(ratio=0.01, values=values), []
        for step in range(3):
            outs.append(reducer.all_reduce(comm, gradient(comm.rank, step), name="w"))
        return outs, reducer.state_dict(comm.rank, size)[f"rank{comm.rank}/w"]

    answers = run_ranks(size, rank)
    for step in range(3):
        assert len({outs[step].tobytes() for outs, _ in answers}) == 1
        assert 0 < np.count_nonzero(answers[0][0][step]) <= 0.01 * COUNT + size
    exact = sum(gradient(r, s).astype(np.float64) for r in range(size) for s in range(3))
    got = sum(answers[0][0]).astype(np.float64) * size
    owed = sum(residual.astype(np.float64) for _, residual in answers)
    # fp32 sums of `size` values a step, each rounded a few times: values stay below 2^8
    np.testing.assert_allclose(got + owed, exact, atol=size * 3 * 4 * 2**8 * 2.0**-24)


@pytest.mark.parametrize("size", [2, 5])
def test_the_result_is_that_of_the_rule_written_down(size: int) -> None:
    outs = run_ranks(
        size, lambda comm: GlobalTopK(0.01, "fp32").all_reduce(comm, gradient(comm.rank), op="sum")
    )
    k, cuts, expected = round(0.01 * COUNT), np.arange(size + 1) * COUNT // size, np.zeros(COUNT, np.float32)
    total = np.zeros(COUNT, np.float32)
    for r in range(size):
        places = largest(gradient(r), k)
        total[places] += gradient(r)[places]
    for a, b in zip(cuts, cuts[1:]):
        places = largest(total[a:b], min(np.count_nonzero(total[a:b]), round(0.01 * COUNT / size)))
        expected[a + places] = total[a + places]
    np.testing.assert_array_equal(outs[0], expected)


def test_regions_hold_equally_many_picks_above_eight_ranks() -> None:
    places = np.sort(np.random.default_rng(0).integers(0, 1000, 90))  # all in one corner of a million
    row = np.concatenate([[90], places[np.arange(9) * 90 // 9]])
    cuts = GlobalTopK._cuts(np.tile(row, (9, 1)), 9, 1_000_000)
    assert cuts[0] == 0 and cuts[9] == 1_000_000 and (np.diff(cuts) >= 0).all()
    picks = np.diff(np.searchsorted(places, cuts))
    assert picks.min() >= 8 and picks.max() <= 12
    np.testing.assert_array_equal(GlobalTopK._cuts(np.tile(row[:3], (2, 1)), 2, 101), [0, 50, 101])


def test_above_the_crossover_all_ranks_go_dense_together() -> None:
    def rank(comm: Any) -> Any:
        # rank 0 alone is far above: the sum over the ranks decides
        reducer = GlobalTopK(ratio=0.3 if comm.rank == 0 else 0.01, crossover=0.1)
        out = reducer.all_reduce(comm, gradient(comm.rank), op="sum", name="w")
        return out, reducer.state_dict(comm.rank)[f"rank{comm.rank}/w"]

    answers = run_ranks(2, rank)
    np.testing.assert_array_equal(answers[0][0], gradient(0) + gradient(1))
    assert not any(residual.any() for _, residual in answers)


def test_a_reused_threshold_keeps_the_number_near_k_while_the_scale_drifts() -> None:
    reducer, counts = GlobalTopK(ratio=0.01, reuse_threshold=True), []
    for step in range(30):
        values, places = reducer._pick(gradient(0, step) * np.float32(1.05**step), "w")
        np.testing.assert_array_equal(values, (gradient(0, step) * np.float32(1.05**step))[places])
        counts.append(values.size)
    assert counts[0] == 300
    assert all(150 <= n <= 600 for n in counts)
    assert 240 < np.mean(counts[10:]) < 420
    exact, _ = reducer._pick(gradient(0) * np.float32(1e6), "w")  # far off: searched anew
    assert exact.size == 300


@pytest.mark.parametrize("reuse", [False, True])
def test_a_restored_state_goes_on_with_the_same_bits(reuse: bool) -> None:
    def rank(comm: Any) -> Any:
        whole, first, second = (GlobalTopK(0.02, reuse_threshold=reuse) for _ in range(3))
        same = []
        for step in range(4):
            if step == 2:
                second.load_state_dict(first.state_dict(comm.rank, comm.size), comm.rank, comm.size)
            a = whole.all_reduce(comm, gradient(comm.rank, step))
            b = (first if step < 2 else second).all_reduce(comm, gradient(comm.rank, step))
            same.append(a.tobytes() == b.tobytes())
        return all(same)

    assert all(run_ranks(2, rank))


@pytest.mark.parametrize("new_size", [1, 2, 5])
def test_a_state_of_another_world_size_conserves_what_is_owed_to_the_average(new_size: int) -> None:
    def rank(comm: Any) -> Any:
        reducer = GlobalTopK()
        reducer.all_reduce(comm, gradient(comm.rank), name="w")
        return reducer.state_dict(comm.rank, comm.size)

    states = run_ranks(3, rank)
    merged = {k: v for state in states for k, v in state.items()}
    old = sum(states[r][f"rank{r}/w"].astype(np.float64) for r in range(3)) / 3
    new = np.zeros(COUNT)
    for r in range(new_size):
        reducer = GlobalTopK()
        reducer.load_state_dict(merged, r, new_size)
        new += reducer.state_dict(r)[f"rank{r}/w"] / new_size
    np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_arrive_and_stay_out_of_the_residual(bad: float) -> None:
    def rank(comm: Any) -> Any:
        x = gradient(comm.rank)
        x[100:2000] = bad  # more than are picked
        reducer = GlobalTopK()
        out = reducer.all_reduce(comm, x, name="w")
        return out, reducer.state_dict(comm.rank)[f"rank{comm.rank}/w"]

    for out, residual in run_ranks(2, rank):
        assert not np.isfinite(out).all()
        assert np.isfinite(residual).all()


def test_an_empty_array_and_a_single_element_pass() -> None:
    def rank(comm: Any) -> Any:
        reducer = GlobalTopK(crossover=2.0)
        one = np.float32([3 + comm.rank])
        none = reducer.all_reduce(comm, np.empty(0, np.float32), name="0")
        return none.size, reducer.all_reduce(comm, one)[0]

    assert run_ranks(3, rank) == [(0, 4.0)] * 3


def test_what_makes_no_sense_is_refused() -> None:
    for call in (
        lambda: GlobalTopK(ratio=0),
        lambda: GlobalTopK(values="int3"),
        lambda: GlobalTopK.parse("global_topk(ration=1)"),
        lambda: GlobalTopK().all_reduce(None, np.zeros(4, np.float64)),
        lambda: GlobalTopK().all_reduce(None, np.zeros(4, np.float32), op="max"),
        lambda: _native.pack_indices(np.int32([3, 3]), 10, np.empty(1, np.uint8)),
        lambda: _native.packed_index_bytes(11, 10),
        lambda: _native.select_at_least(
            np.zeros(3, np.float32), 0.0, np.zeros(1, np.float32), np.zeros(1, int)
        ),
    ):
        with pytest.raises(ArgumentError):
            call()
    assert "ratio=0.5" in str(GlobalTopK.parse("global_topk(ratio=0.5, reuse_threshold=True)"))


@pytest.mark.parametrize("length", [1, 2, 3, 64, 1000, 4096, 5_000_000])
def test_packed_places_come_back_and_take_no_more_than_plain_numbers(length: int) -> None:
    rng = np.random.default_rng(length)
    for n in sorted({0, 1, *(min(length, n) for n in (2, 41, 3000)), length if length < 5000 else 7}):
        places = np.sort(rng.choice(length, n, replace=False)).astype(np.int32)
        packed = np.full(_native.packed_index_bytes(n, length), 0xA5, np.uint8)
        assert packed.size <= -(-n * (length - 1).bit_length() // 8)
        _native.pack_indices(places, length, packed)
        back = np.empty(n, np.int32)
        _native.unpack_indices(packed, length, back)
        np.testing.assert_array_equal(back, places)


def test_damaged_places_are_refused_or_still_increase_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for n, length in ((41, 4096), (3, 4096), (700, 1000), (1000, 1_000_000)):
        places = np.sort(rng.choice(length, n, replace=False)).astype(np.int32)
        packed, back, refused = np.empty(_native.packed_index_bytes(n, length), np.uint8), places.copy(), 0
        _native.pack_indices(places, length, packed)
        for _ in range(200):
            bad = packed.copy()
            bad[rng.integers(bad.size)] ^= 1 << rng.integers(8)
            try:
                _native.unpack_indices(bad, length, back)
                assert (np.diff(back) > 0).all() and back[0] >= 0 and back[-1] < length
            except FrameError:
                refused += 1
        assert refused > 20


def test_selection_by_threshold_counts_all_and_writes_what_fits() -> None:
    x = gradient(3)
    values, places = np.full(10, 77, np.float32), np.full(10, 77, np.int64)
    assert _native.select_at_least(x, 2.0, values, places) == np.count_nonzero(np.abs(x) >= 2)
    np.testing.assert_array_equal(places, np.flatnonzero(np.abs(x) >= 2)[:10])
    np.testing.assert_array_equal(values, x[places])


def test_the_name_is_public_and_parses() -> None:
    assert gradwire.GlobalTopK.parse("int8") is None
