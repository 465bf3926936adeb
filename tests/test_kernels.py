"""Element kernels as Python reaches them: conversions, top-k, instruction sets. tests/cpp covers fold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire import _native
from gradwire._native import Codec
from gradwire.errors import ArgumentError

Floats = npt.NDArray[np.float32]


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> object:
    usual = _native.isa()
    _native.use_isa(request.param)
    yield request.param
    _native.use_isa(usual)


def interesting_floats() -> Floats:
    """All upper halves of fp32 with lower halves around every rounding boundary."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.uint32([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    return (upper[:, None] | lower).ravel().view(np.float32)


def test_portable_is_always_there_and_names_are_checked() -> None:
    assert _native.isa() in _native.isas()
    with pytest.raises(ArgumentError, match="possible"):
        _native.use_isa("mmx")


def test_fp16_conversion_is_numpys(isa: str) -> None:
    x = interesting_floats()
    payload = np.empty(2 * x.size, np.uint8)
    _native.quantize(x, Codec("fp16"), payload)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float16)
    got = payload.view(np.float16)
    np.testing.assert_array_equal(got[~np.isnan(x)].view(np.uint16), expected[~np.isnan(x)].view(np.uint16))
    assert np.isnan(got[np.isnan(x)]).all()


def test_every_fp16_widens_as_in_numpy(isa: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    y = np.empty(halves.size, np.float32)
    _native.dequantize(halves.view(np.uint8), Codec("fp16"), y)
    expected = halves.view(np.float16).astype(np.float32)
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(y[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert np.isnan(y[~finite]).all()


def test_bf16_conversion_rounds_to_nearest_even(isa: str) -> None:
    x = interesting_floats()
    payload = np.empty(2 * x.size, np.uint8)
    _native.quantize(x, Codec("bf16"), payload)
    u = x.view(np.uint32).astype(np.uint64)
    expected = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(payload.view(np.uint16)[number], expected[number])
    y = np.empty_like(x)
    _native.dequantize(payload, Codec("bf16"), y)
    np.testing.assert_array_equal(y.view(np.uint32), payload.view(np.uint16).astype(np.uint32) << 16)
    assert np.isnan(y[~number]).all()


# ---- top-k ------------------------------------------------------------------------------------------------


def reference_topk(x: Floats, k: int) -> npt.NDArray[np.int64]:
    """By magnitude, NaN largest (magnitudes as bits), ties to the lower index, in index order."""
    size = x.view(np.uint32) & 0x7FFFFFFF
    return np.sort(np.argsort(-size.astype(np.int64), kind="stable")[:k])


def check_topk(x: Floats, k: int) -> None:
    values, indices = np.empty(k, np.float32), np.empty(k, np.int64)
    _native.topk(x, k, values, indices)
    np.testing.assert_array_equal(indices, reference_topk(x, k))
    np.testing.assert_array_equal(values.view(np.uint32), x[indices].view(np.uint32))


@pytest.mark.parametrize("count", [0, 1, 17, 4095, 4096, 4097, 16384, 16385, 100003, 400001])
def test_topk_of_random_values(isa: str, count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    for ratio in (0, 0.0001, 0.01, 0.03, 0.04, 0.3, 1):
        check_topk(x, min(count, int(ratio * count) + (ratio > 0 and ratio < 1)))


AWKWARD = ["equal", "two values", "sorted", "reversed", "zeros", "clustered", "specials"]


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("count", [5000, 50001])
def test_topk_of_awkward_values(kind: str, count: int) -> None:
    i = np.arange(count)
    x = {
        "equal": np.full(count, -2.0),
        "two values": np.where(i % 3 == 0, 1.0, -1.5),
        "sorted": i.astype(float),
        "reversed": -i[::-1].astype(float),
        "zeros": np.where(i % 2 == 0, 0.0, -0.0),
        "clustered": np.where(i % 256 == 7, 1000.0 + i, np.sin(i)),  # large ones share a column of the tile
        "specials": np.where(i % 100 == 3, np.nan, np.where(i % 90 == 1, -np.inf, np.cos(i))),
    }[kind].astype(np.float32)
    for k in (1, 13, 50, count // 100, count // 3, count - 1, count):
        check_topk(x, k)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), st.data())
def test_topk_of_any_bits(patterns: list[int], data: st.DataObject) -> None:
    x = np.array(patterns, np.uint32).view(np.float32)
    check_topk(x, data.draw(st.integers(0, x.size)))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_topk_of_other_floats_gives_fp32_values(dtype: str) -> None:
    x = np.random.default_rng(3).standard_normal(3000).astype(dtype)
    values, indices = np.empty(30, np.float32), np.empty(30, np.int64)
    _native.topk(x, 30, values, indices)
    np.testing.assert_array_equal(indices, reference_topk(x.astype(np.float32), 30))


def test_topk_refuses_too_many_and_wrong_outputs() -> None:
    x = np.ones(5, np.float32)
    with pytest.raises(ArgumentError, match="at most 5"):
        _native.topk(x, 6, np.empty(6, np.float32), np.empty(6, np.int64))
    with pytest.raises(ArgumentError, match="int64"):
        _native.topk(x, 2, np.empty(2, np.float32), np.empty(2, np.int32))
    with pytest.raises(ArgumentError, match="expected 2 elements, got 3"):
        _native.topk(x, 2, np.empty(3, np.float32), np.empty(2, np.int64))


@pytest.mark.parametrize("ratio", [0.0003, 0.01, 0.031, 0.032, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 100, 1023, 1025, 4096, 9000])
def test_topk_codec_chooses_what_the_reference_chooses(isa: str, ratio: float, count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    y = np.empty_like(x)
    _native.decode(_native.encode(x, Codec("topk", ratio=ratio, values="fp32")), y)
    k = max(1, int(ratio * 4096 + 0.5))
    expected = np.zeros_like(x)
    for start in range(0, count, 4096):
        block = x[start : start + 4096]
        chosen = start + reference_topk(block, -(-k * block.size // 4096))
        expected[chosen] = x[chosen]
    np.testing.assert_array_equal(y, expected)
