"""The compression ops and stand-alone frames, against plain NumPy."""

from __future__ import annotations

import exact
import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import _native, ops

FLOATS = [d for d in exact.FLOATS if d in exact.DTYPES]
COUNTS = [0, 1, 31, 32, 33, 4095, 4096, 4097, 100_003]


def normal(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("bits", [8, 4])
def test_quantisation_stays_within_the_bound_of_its_block(bits: int, count: int) -> None:
    x = normal(count)
    q = ops.quantize(x, bits=bits, block=32)
    y = ops.dequantize(q)
    assert q.payload.nbytes == q.codec.encoded_bytes(count)
    padded = np.pad(np.abs(x), (0, -count % 32)).reshape(-1, 32)
    largest = np.repeat(padded.max(axis=1, initial=0), 32)[:count]
    assert (np.abs(y - x) <= largest * (2.0 ** (1 - bits) + 2.0**-8)).all()  # derived in quant.hpp


@pytest.mark.parametrize("dtype", FLOATS)
def test_dequantize_restores_shape_dtype_and_kind(dtype: str) -> None:
    x = exact.array(normal(96).reshape(8, 12), dtype)
    y = ops.dequantize(ops.quantize(x))
    assert tuple(y.shape) == (8, 12) and y.dtype == x.dtype and type(y) is type(x)
    out = np.zeros(96, np.float64)
    assert ops.dequantize(ops.quantize(x), out) is out
    np.testing.assert_allclose(out, exact.numbers(x).ravel(), atol=0.1)


def test_a_finer_block_errs_less_and_takes_more_bytes() -> None:
    x = normal(8192)
    fine, coarse = ops.quantize(x, bits=4, block=32), ops.quantize(x, bits=4, block=128)
    assert fine.payload.nbytes > coarse.payload.nbytes
    assert np.linalg.norm(ops.dequantize(fine) - x) < np.linalg.norm(ops.dequantize(coarse) - x)


@pytest.mark.parametrize("count", [c for c in COUNTS if c])
@pytest.mark.parametrize("ratio", [0.01, 0.5, 1.0])
def test_topk_is_exact_and_in_index_order(count: int, ratio: float) -> None:
    x = normal(count)
    values, indices = ops.topk(x, ratio=ratio)
    k = min(count, max(1, round(ratio * count)))
    wanted = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
    np.testing.assert_array_equal(indices, wanted)
    np.testing.assert_array_equal(values, x[wanted])


def test_topk_breaks_ties_toward_the_lower_index() -> None:
    x = np.float32([1, -2, 2, 0, -2, 1, 2])
    for k in range(8):
        wanted = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
        np.testing.assert_array_equal(ops.topk(x, k=k)[1], wanted)
    np.testing.assert_array_equal(ops.topk(np.zeros(1000, np.float32), k=3)[1], [0, 1, 2])


def test_topk_puts_infinity_and_nan_first() -> None:
    x = normal(5000)
    x[[17, 4000]] = np.inf, np.nan
    assert {17, 4000} <= set(ops.topk(x, k=2)[1].tolist())


@pytest.mark.parametrize(
    "arguments", [{"ratio": 0}, {"ratio": 1.5}, {"ratio": -1}, {"k": -1}, {"k": 11}, {"k": 1, "ratio": 0.1}]
)
def test_topk_refuses_what_makes_no_sense(arguments: dict[str, float]) -> None:
    with pytest.raises(gradwire.ArgumentError):
        ops.topk(normal(10), **arguments)  # type: ignore[arg-type]


def test_ops_refuse_integers_gaps_and_odd_bits() -> None:
    for call in (
        lambda: ops.quantize(np.ones(4, np.int32)),
        lambda: ops.quantize(np.ones(8, np.float32)[::2]),
        lambda: ops.quantize(normal(4), bits=5),
        lambda: ops.quantize(normal(4), bits=8, block=7),
        lambda: ops.dequantize(ops.quantize(normal(4)), np.zeros(5, np.float32)),
        lambda: ops.topk(np.ones(4, np.int64), k=1),
    ):
        with pytest.raises(gradwire.ArgumentError):
            call()


@pytest.mark.parametrize("codec", gradwire.codecs())
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [0, 1, 33, 5000])
def test_a_frame_describes_itself(codec: str, dtype: str, count: int) -> None:
    x = exact.array(normal(count), dtype)
    frame = gradwire.encode(x, codec)
    raw = count * (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)
    made = gradwire.codec(codec)
    payload = raw if codec == "identity" else made.encoded_bytes(count)
    assert len(frame) == 64 + payload if made.fixed_size else len(frame) <= 64 + payload
    y = gradwire.decode(frame)
    assert y.dtype == x.dtype and tuple(y.shape) == (count,)
    acc = exact.array(np.ones(count), dtype)
    assert gradwire.decode_add(frame, acc) is acc
    np.testing.assert_allclose(exact.numbers(acc), exact.numbers(y) + 1, rtol=2**-7, atol=2**-7)


def test_encode_moves_its_loss_into_the_residual() -> None:
    x, residual = normal(1000), normal(1000) * 0.1
    before = x.astype(np.float64) + residual
    frame = gradwire.encode(x, "int4", residual=residual)
    np.testing.assert_allclose(gradwire.decode(frame) + residual, before, atol=1e-6)


def test_what_is_not_a_frame_is_refused() -> None:
    frame = gradwire.encode(normal(100), "int8")
    for bad in (frame[:-1], frame[:10], np.zeros(200, np.uint8), np.concatenate([frame, frame[:1]])):
        with pytest.raises(gradwire.FrameError):
            gradwire.decode(np.ascontiguousarray(bad))
    with pytest.raises(gradwire.ArgumentError):
        gradwire.decode(frame, np.zeros(99, np.float32))
    with pytest.raises(gradwire.ArgumentError):
        gradwire.encode(normal(4), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["clustered", "equal", "two values", "nan", "one spike", "runs", "ramp"])
def test_topk_is_exact_where_a_sample_misleads(shape: str) -> None:
    count = 200_003
    x = normal(count)
    if shape == "clustered":  # all that matters lies in one place, between the runs of the sample
        x[50_000:51_000] *= 1000
    elif shape == "equal":
        x[:] = -3
    elif shape == "two values":
        x = np.where(np.abs(x) > 1, np.float32(2), np.float32(1))
    elif shape == "nan":
        x.view(np.uint32)[::3] = 0xFFFFFFFF
    elif shape == "one spike":
        x[:] = 0
        x[777] = 1
    elif shape == "runs":
        x.reshape(-1)[: count // 256 * 256].reshape(-1, 256)[:, :4] *= 100
    else:
        x = np.arange(count, dtype=np.float32)
    size = x.view(np.uint32) & 0x7FFFFFFF
    for k in (1, 1000, 2000, 66_669, count):
        wanted = np.sort(np.argsort(-size.astype(np.int64), kind="stable")[:k])
        np.testing.assert_array_equal(ops.topk(x, k=k)[1], wanted)


@pytest.mark.parametrize("isa", _native.isas())
def test_topk_chooses_alike_on_every_instruction_set(isa: str) -> None:
    usual = _native.isa()
    x = normal(100_003)
    wanted = ops.topk(x, ratio=0.02)
    try:
        _native.use_isa(isa)
        for got, expected in zip(ops.topk(x, ratio=0.02), wanted):
            np.testing.assert_array_equal(got, expected)
    finally:
        _native.use_isa(usual)
