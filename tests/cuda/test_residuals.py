"""Residuals in GPU memory: the CPU's bytes, in every storage, grouping, place and number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import ErrorFeedback, ops
from gradwire.testing import to_cpu, to_gpu

STORAGES = ("fp32", "bf16", "int8")
COUNTS = {"a": 1000, "b": 1, "c": 4097}


def declared(storage: str) -> ErrorFeedback:
    feedback = ErrorFeedback(storage)
    for name, count in COUNTS.items():
        feedback.declare(name, count)
    return feedback


def values(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(count, np.float32)


def step(feedback: ErrorFeedback, parts: tuple[Any, ...], seed: int, where: str) -> Any:
    """Payload of one encode with these residuals."""
    x = values(sum(p if isinstance(p, int) else COUNTS[p] for p in parts), seed)
    there = to_gpu(x) if where == "gpu" else x
    with feedback.borrow(*parts, like=there) as residual:
        payload = ops.error_feedback(there, residual, "int4").payload
    return to_cpu(payload) if where == "gpu" else payload


@pytest.mark.parametrize("storage", STORAGES)
def test_residuals_follow_the_gradients_and_keep_their_bits(storage: str) -> None:
    alone, moving = declared(storage), declared(storage)
    groups = (("a", 7, "b"), ("a", 7, "b"), ("c",), ("b", "c", 30, "a"), ("b", "c", 30, "a"), ("a",))
    places = ("gpu", "gpu", "cpu", "gpu", "cpu", "gpu")
    for seed, (parts, where) in enumerate(zip(groups, places)):
        expected = step(alone, parts, seed, "cpu")
        np.testing.assert_array_equal(step(moving, parts, seed, where), expected)
    for name in COUNTS:
        np.testing.assert_array_equal(moving.read(name), alone.read(name))
    assert moving.norm() == pytest.approx(alone.norm()) and moving.nbytes() == alone.nbytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_checkpoint_is_the_same_wherever_residuals_lie(storage: str) -> None:
    saved = {}
    for where in ("cpu", "gpu"):
        state: dict[str, Any] = {}
        for rank in range(3):
            feedback = declared(storage)
            step(feedback, ("a", "b", "c"), rank, where)
            state.update(feedback.state_dict(rank, 3))
        saved[where] = state
    assert saved["cpu"].keys() == saved["gpu"].keys()
    for key, value in saved["cpu"].items():
        np.testing.assert_array_equal(saved["gpu"][key], value)
    fewer = declared(storage)
    step(fewer, ("a", "b", "c"), 9, "gpu")  # is on the GPU already, and overwritten there
    fewer.load_state_dict(saved["gpu"], rank=0, size=1)
    for name in COUNTS:
        total = sum(saved["cpu"][f"rank{r}/{name}"].astype(np.float64) for r in range(3))
        slack = {"fp32": 1e-6, "bf16": 2.0**-8, "int8": 0.01}[storage] * np.abs(total).max()
        np.testing.assert_allclose(fewer.read(name), total, atol=slack)


def test_gaps_are_zero_again_in_the_next_loan() -> None:
    feedback, like = declared("fp32"), to_gpu(np.zeros(1, np.float32))
    loan = feedback.lend("b", 5, like=like)
    loan.array.copy_from(np.arange(6, dtype=np.float32))
    loan.give_back()
    with feedback.borrow("b", 5, like=like) as again:
        np.testing.assert_array_equal(to_cpu(again), [0, 0, 0, 0, 0, 0])


def test_slices_of_a_gpu_array_share_its_memory() -> None:
    x = to_gpu(np.arange(10, dtype=np.float32))
    part = x[2:5]
    del x  # its memory lives on
    np.testing.assert_array_equal(to_cpu(part), [2, 3, 4])
    part[1:].copy_from(np.float32([7, 8]))
    np.testing.assert_array_equal(to_cpu(part), [2, 7, 8])
    assert part[:0].size == 0
    with pytest.raises(gradwire.ArgumentError, match="step"):
        part[::2]
