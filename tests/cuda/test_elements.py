"""What collectives do to elements outside of a codec, on a GPU: the arithmetic of the CPU at any address."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradwire import _native

sys.path[:0] = [str(Path(__file__).parent)]
from memory import Placed  # noqa: E402

torch = pytest.importorskip("torch")

COUNTS = (0, 1, 7, 8, 9, 255, 2048, 4101)
DTYPES = ("float32", "bfloat16", "float16")


def values(count: int, seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(count) * np.exp2(rng.integers(-20, 20, count))).astype(np.float32)
    x[3::11] = 0
    x[5::101] = np.inf
    x[6::101] = np.nan
    return x


def floats(x: npt.NDArray[np.float32], shift: int) -> Placed:
    return Placed(x.size, "float32", 4 * shift, x)


def like(x: npt.NDArray[np.float32], dtype: str) -> Any:
    return torch.from_numpy(x).to(getattr(torch, dtype))


def same(got: Placed, expected: Any) -> None:
    read = torch.from_numpy(got.bytes().copy())
    read = read.view(expected.dtype) if read.numel() else torch.empty(0, dtype=expected.dtype)
    torch.testing.assert_close(read, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_widened_and_added_in_the_order_of_the_cpu(dtype: str, order: str) -> None:
    for i, count in enumerate(COUNTS):
        x, owed, total = like(values(count, i), dtype), values(count, 50 + i), values(count, 90 + i)
        there = Placed(count, dtype, i % 3 * x.element_size(), x.view(torch.uint8).numpy() if count else None)
        for residual in (None, floats(owed, i % 2)):
            wanted = x.float() if residual is None else x.float() + torch.from_numpy(owed)
            fresh, summed = floats(total, i % 4), floats(total, i % 4)
            _native.gpu.load(there, fresh, residual)
            _native.gpu.load(there, summed, residual, add=True)
            same(fresh, wanted)
            same(summed, torch.from_numpy(total) + wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_rounding_takes_off_is_kept(dtype: str, order: str) -> None:
    for i, count in enumerate(COUNTS):
        v = values(count, i)
        scaled, plain = (Placed(count, dtype, i % 3 * (4 if dtype == "float32" else 2)) for _ in range(2))
        rest = floats(v, i % 4)
        _native.gpu.store(floats(v, i % 2), scaled, 0.25)
        _native.gpu.store(floats(v, i % 2), plain, rounded_off=rest)
        same(scaled, like(v * np.float32(0.25), dtype))
        same(plain, like(v, dtype))
        same(rest, torch.from_numpy(v) - like(v, dtype).float())
