"""Error feedback as one object: what is dropped comes back, whatever the storage, grouping and world size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import ArgumentError, ErrorFeedback

STORAGES = ["fp32", "bf16", "int8"]
# Relative L2 error of one rest between two steps: storage keeps the residual's own rounding in check.
AT_REST = {"fp32": 0.0, "bf16": 2.0**-8, "int8": 0.0065}


def values(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def declared(storage: str = "fp32", **counts: int) -> ErrorFeedback:
    feedback = ErrorFeedback(storage)
    for name, count in counts.items():
        feedback.declare(name, count)
    return feedback


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("codec", ["int4", "topk(ratio=0.05)"])
def test_what_every_step_sent_and_the_residual_add_up_to_all_gradients(codec: str, storage: str) -> None:
    feedback, steps, count = declared(storage, w=5000), 20, 5000
    produced, sent, rests = np.zeros(count), np.zeros(count), 0.0
    for step in range(steps):
        gradient = values(count, step)
        produced += gradient
        with feedback.borrow("w") as residual:
            sent += gradwire.decode(gradwire.encode(gradient, codec, residual))
            rests += AT_REST[storage] * float(np.linalg.norm(residual))
    missing = np.linalg.norm(produced - sent - feedback.read("w"))
    assert missing <= rests + 1e-5 * np.linalg.norm(produced)
    assert feedback.norm() > 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_both_losses_of_a_collective_are_kept(storage: str, size: int) -> None:
    count = 3000

    def rank(comm: Any) -> Any:
        feedback = declared(storage, w=count)
        x = values(count, comm.rank)
        with feedback.borrow("w") as residual:
            comm.all_reduce(x, codec="int4", residual=residual)
        return x, feedback.read("w")

    ends = gradwire.testing.run_ranks(size, rank)
    exact = np.sum([values(count, r).astype(np.float64) for r in range(size)], axis=0)
    lost = np.sum([residual for _, residual in ends], axis=0)
    slack = AT_REST[storage] * sum(float(np.linalg.norm(residual)) for _, residual in ends)
    assert np.linalg.norm(exact - ends[0][0] - lost) <= slack + 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("storage", STORAGES)
def test_regrouping_moves_residuals_and_changes_none(storage: str) -> None:
    feedback = declared(storage, a=70, b=1, c=333)
    with feedback.borrow("a", 5, "b", "c") as residual:
        assert not residual.any()
        residual[:] = values(409)
    kept = {name: feedback.read(name) for name in "abc"}
    for group in [("c",), ("b", "a"), ("c", "b", 7, "a")]:
        with feedback.borrow(*group) as residual:
            parts = [np.zeros(g, np.float32) if isinstance(g, int) else kept[g] for g in group]
            np.testing.assert_array_equal(residual, np.concatenate(parts))
    for name in "abc":
        np.testing.assert_array_equal(feedback.read(name), kept[name])


@pytest.mark.parametrize("storage", STORAGES)
def test_a_gap_is_zero_in_every_loan(storage: str) -> None:
    feedback = declared(storage, a=3)
    for _ in range(2):
        with feedback.borrow(4, "a") as residual:
            assert not residual[:4].any()
            residual[:] = 1
    assert feedback.read("a").tolist() == [1, 1, 1]


def test_a_steady_step_in_fp32_works_on_the_same_memory() -> None:
    feedback = declared(a=10, b=20)
    with feedback.borrow("a", "b") as first, pytest.raises(ArgumentError, match="in use by another"):
        feedback.lend("b")
    with feedback.borrow("a", "b") as second:
        assert second.ctypes.data == first.ctypes.data


@pytest.mark.parametrize(("storage", "bytes_each"), [("fp32", 4), ("bf16", 2), ("int8", 1.03125)])
def test_storage_takes_the_bytes_that_are_promised(storage: str, bytes_each: float) -> None:
    feedback = declared(storage, w=64000)
    assert feedback.nbytes() == 0, "a residual takes no memory before it is used"
    feedback.write("w", values(64000))
    assert feedback.nbytes() == 64000 * bytes_each


@pytest.mark.parametrize("storage", STORAGES)
def test_a_checkpoint_continues_exactly_on_as_many_ranks(storage: str) -> None:
    feedback = declared(storage, a=1000, b=63)
    with feedback.borrow("a", "b") as residual:
        residual[:] = values(1063)
    again = declared(storage, a=1000, b=63)
    again.load_state_dict(feedback.state_dict(1, 3), rank=1, size=3, op="avg")
    for name in "ab":
        np.testing.assert_array_equal(again.read(name), feedback.read(name))


@pytest.mark.parametrize("new_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("op", ["sum", "avg"])
def test_the_sum_of_residuals_survives_a_change_of_world_size(op: str, new_size: int) -> None:
    old_size, merged, total = 4, {}, np.zeros(6)
    for rank in range(old_size):
        feedback = declared(w=6)
        feedback.write("w", values(6, rank))
        total += feedback.read("w")
        merged.update(feedback.state_dict(rank, old_size))
    again = np.zeros(6)
    for rank in range(new_size):
        feedback = declared(w=6)
        feedback.load_state_dict(merged, rank, new_size, op=op)
        again += feedback.read("w")
    weight = new_size / old_size if op == "avg" else 1.0
    np.testing.assert_allclose(again, total * weight, rtol=1e-5, atol=1e-6)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    feedback = declared(w=6)
    feedback.write("w", np.ones(6))
    state = feedback.state_dict(0, 2)
    with pytest.raises(ArgumentError, match=r"rank1/w.*holds ranks 0"):
        feedback.load_state_dict(state, 0, 1)
    with pytest.raises(ArgumentError, match="6 elements, expected 5"):
        declared(w=5).load_state_dict(state, 0, 2)
    with pytest.raises(ArgumentError, match='"sum" or "avg"'):
        feedback.load_state_dict(state, op="max")
    assert feedback.read("w").tolist() == [1] * 6


def test_wrong_use_says_what_to_do() -> None:
    with pytest.raises(ArgumentError, match="fp32, bf16, int8, got 'fp8'"):
        ErrorFeedback("fp8")
    feedback = declared(a=3)
    with pytest.raises(ArgumentError, match=r"no residual 'b': declare.*known: \['a'\]"):
        feedback.lend("b")
    with pytest.raises(ArgumentError, match="has 3 elements, now declared with 4"):
        feedback.declare("a", 4)
    with pytest.raises(ArgumentError, match="has 3 elements, got 4"):
        feedback.write("a", np.zeros(4))
