"""ops.topk on GPU arrays: the CPU's values and indices for every kind of data, count, dtype and address."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import _native, ops
from gradwire.testing import to_cpu, to_gpu

sys.path[:0] = [str(Path(__file__).parent)]
from memory import Placed  # noqa: E402

torch = pytest.importorskip("torch")

rng = np.random.default_rng(3)
COUNTS = (1, 7, 4095, 4096, 4097, 20001)


def normal(n: int) -> npt.NDArray[np.float32]:
    return rng.standard_normal(n).astype(np.float32)


def ties(n: int) -> npt.NDArray[np.float32]:
    return np.round(normal(n) * 2)


def zeros(n: int) -> npt.NDArray[np.float32]:
    return np.where(rng.random(n) < 0.003, normal(n), np.float32(0))


def special(n: int) -> npt.NDArray[np.float32]:
    x = normal(n) * np.exp2(rng.integers(-140, 120, n)).astype(np.float32)
    x[rng.random(n) < 0.001] = np.nan
    x[rng.random(n) < 0.001] = -np.inf
    return x


def check(x: Any, k: int, shift: int = 0) -> None:
    """x: torch tensor."""
    raw = x.view(torch.uint8).numpy()
    there = Placed(x.numel(), str(x.dtype).removeprefix("torch."), shift * x.element_size(), raw)
    values, indices = Placed(k, "float32"), Placed(k, "int64")
    ops.topk(there, k=k, out=(values, indices))
    expected = ops.topk(x, k=k)
    np.testing.assert_array_equal(indices.bytes().view(np.int64), expected[1].numpy())
    np.testing.assert_array_equal(values.bytes(), expected[0].numpy().view(np.uint8))


@pytest.mark.parametrize("data", [normal, ties, zeros, special])
def test_chosen_are_those_of_the_cpu(data: Any, order: str) -> None:
    for i, count in enumerate(COUNTS):
        dtype = (torch.float32, torch.bfloat16, torch.float16)[i % 3]
        x = torch.from_numpy(data(count)).to(dtype)
        for k in sorted({0, 1, count // 100, count // 2, count}):
            check(x, k, shift=i % 4)


@pytest.mark.parametrize("value", [0.0, -1.5, np.nan])
def test_of_equal_ones_the_first_are_chosen_however_many(value: float, order: str) -> None:
    """More candidates than are put aside: the array is read again instead."""
    x = torch.full((90_001,), value)
    x[80_000] = np.inf
    check(x, 500)


@pytest.mark.parametrize("data", [normal, ties, special])
def test_what_reaches_a_threshold_is_that_of_the_cpu(data: Any, order: str) -> None:
    for i, count in enumerate((1, 4097, 20001)):
        x = data(count)
        for threshold, room in ((0.5, 3), (2.5, count), (1e30, 50), (2.0**-140, count // 2 + 1)):
            there = Placed(count, "float32", i * 4, x)
            values, indices = Placed(room, "float32"), Placed(room, "int64")
            scratch = to_gpu(np.empty(_native.gpu.topk_bytes(count, room), np.uint8))
            found = _native.gpu.select_at_least(there, threshold, values, indices, scratch)
            expected = np.zeros(room, np.float32), np.zeros(room, np.int64)
            assert found == _native.select_at_least(x, threshold, *expected)
            n = min(found, room)
            np.testing.assert_array_equal(indices.bytes().view(np.int64)[:n], expected[1][:n])
            np.testing.assert_array_equal(values.bytes()[: 4 * n], expected[0].view(np.uint8)[: 4 * n])


def test_a_random_choice_is_that_of_the_cpu(order: str) -> None:
    for i, count in enumerate((1, 4097, 20001)):
        x = torch.from_numpy(special(count)).to((torch.float32, torch.bfloat16, torch.float16)[i])
        dtype = str(x.dtype).removeprefix("torch.")
        there = Placed(count, dtype, i * x.element_size(), x.view(torch.uint8).numpy())
        for k in sorted({0, 1, count // 7, count}):
            values, indices = Placed(k, "float32"), Placed(k, "int64")
            ops.randk(there, k=k, seed=3, step=i, out=(values, indices))
            expected = ops.randk(x, k=k, seed=3, step=i)
            np.testing.assert_array_equal(indices.bytes().view(np.int64), expected[1].numpy())
            np.testing.assert_array_equal(values.bytes(), expected[0].numpy().view(np.uint8))


def test_scattered_values_go_to_their_places_and_nowhere_else(order: str) -> None:
    expected, places = normal(5003), np.int64([0, 5002, 7, 4096])
    there, values = Placed(5003, "float32", 4, expected), to_gpu(np.float32([1, -2, np.nan, 0.5]))
    _native.gpu.scatter(values, to_gpu(places), there)
    expected[places] = to_cpu(values)
    _native.gpu.scatter(values, to_gpu(places[::-1].copy()), there, add=True)
    expected[places[::-1]] += to_cpu(values)
    np.testing.assert_array_equal(there.bytes(), expected.view(np.uint8))
    _native.gpu.scatter(to_gpu(np.ones(2, np.float32)), to_gpu(np.int64([-1, 5003])), there)
    np.testing.assert_array_equal(there.bytes(), expected.view(np.uint8))


def test_new_arrays_are_made_where_x_is() -> None:
    values, indices = ops.topk(to_gpu(np.float32([1, -5, 0, 5, 3])), k=2)
    np.testing.assert_array_equal(to_cpu(values), [-5, 5])
    np.testing.assert_array_equal(to_cpu(indices), [1, 3])
    values, indices = ops.randk(to_gpu(np.arange(1000, dtype=np.float32)), k=3, seed=1)
    np.testing.assert_array_equal(to_cpu(values), to_cpu(indices))


def test_bad_input_is_named() -> None:
    x = to_gpu(np.zeros(64, np.float32))
    with pytest.raises(gradwire.ArgumentError, match="between 0 and the 64"):
        ops.topk(x, k=65)
    with pytest.raises(gradwire.ArgumentError, match="values must be in GPU memory"):
        ops.topk(x, k=1, out=(np.zeros(1, np.float32), np.zeros(1, np.int64)))
    with pytest.raises(gradwire.ArgumentError, match="float32, bfloat16 and float16, got float64"):
        ops.topk(to_gpu(np.zeros(8)), k=1)
    with pytest.raises(gradwire.ArgumentError, match="k must be at most 64"):
        ops.randk(x, k=1, out=(to_gpu(np.zeros(65, np.float32)), to_gpu(np.zeros(65, np.int64))))
