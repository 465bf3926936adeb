"""The compression ops and stand-alone frames, against plain NumPy."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

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


def test_dequantize_adds_to_what_is_there() -> None:
    q, total = ops.quantize(normal(96)), np.ones(96, np.float32)
    assert ops.dequantize(q, total, add=True) is total
    np.testing.assert_array_equal(total, np.float32(1) + ops.dequantize(q))


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
        lambda: ops.quantize(normal(4), bits=7),
        lambda: ops.quantize(normal(4), bits=8, block=7),
        lambda: ops.dequantize(ops.quantize(normal(4)), np.zeros(5, np.float32)),
        lambda: ops.dequantize(ops.quantize(normal(4)), add=True),
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


# -- the family --------------------------------------------------------------------------------------------
def calls(x: Any, bytes_: Any) -> dict[str, Any]:
    """name -> (call with out, the arrays that it writes), over float32 x and uint8 bytes_ of NumPy or
    torch."""
    make: Any = np.zeros
    if not isinstance(x, np.ndarray):
        import torch

        def make(n: int, dtype: str) -> Any:
            return torch.zeros(n, dtype=getattr(torch, dtype))

    count = len(x)
    residual = make(count, "float32")
    q = ops.quantize(x, bits=4)
    found: dict[str, Any] = {}

    def add(name: str, call: Any, *outs: Any) -> None:
        found[name] = (call, outs)

    payload, floats, packed, codes = (
        make(len(q.payload), "uint8"), make(count, "float32"), make((count * 3 + 7) // 8, "uint8"),
        make(count, "uint8"),
    )  # fmt: skip
    values, indices = make(9, "float32"), make(9, "int64")
    add("quantize", lambda: ops.quantize(x, bits=4, out=payload), payload)
    add("dequantize", lambda: ops.dequantize(q, out=floats), floats)
    add("error_feedback", lambda: ops.error_feedback(x, residual, "int4", out=payload), payload, residual)
    add("topk", lambda: ops.topk(x, k=9, out=(values, indices)), values, indices)
    add("randk", lambda: ops.randk(x, k=9, seed=3, step=4, out=(values, indices)), values, indices)
    add("hadamard", lambda: ops.hadamard(x, 64, out=floats), floats)
    add("pack", lambda: ops.pack(bytes_, 3, out=packed), packed)
    add("unpack", lambda: ops.unpack(packed, 3, count, out=codes), codes)
    return found


NAMES = list(calls(normal(640), np.zeros(640, np.uint8)))


def raw(array: Any) -> bytes:
    return np.asarray(array).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_torch_give_the_same_bytes(name: str) -> None:
    torch = pytest.importorskip("torch")
    x, b = normal(6400), np.random.default_rng(2).integers(0, 8, 6400, np.uint8)
    results = []
    for a, c in ((x, b), (torch.from_numpy(x), torch.from_numpy(b))):
        call, outs = calls(a, c)[name]
        call()
        results.append([raw(o) for o in outs])
    assert results[0] == results[1] and any(any(r) for r in results[0]) == (name != "unpack")


@pytest.mark.parametrize("name", NAMES)
def test_out_allocates_no_array(name: str) -> None:
    count = 640_000
    call, _ = calls(normal(count), np.zeros(count, np.uint8))[name]
    call()
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000, f"{peak} bytes for a call on {count} elements"


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1001])
def test_packing_loses_nothing_and_wastes_less_than_a_byte(bits: int, count: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, count, np.uint8)
    packed = ops.pack(codes, bits)
    assert packed.nbytes == (count * bits + 7) // 8
    expected = np.packbits(
        np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits].reshape(-1), bitorder="little"
    )
    np.testing.assert_array_equal(packed, expected)
    np.testing.assert_array_equal(ops.unpack(packed, bits, count), codes)


@pytest.mark.parametrize("block", [1, 2, 64, 128, 4096])
def test_hadamard_is_the_matrix_and_its_own_inverse(block: int) -> None:
    x = normal(2 * block)
    y = ops.hadamard(x, block)
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    want = (x.reshape(2, block).astype(np.float64) @ matrix / np.sqrt(block)).reshape(-1)
    rounding = 2.0**-24 * (np.log2(block) + 2) * np.linalg.norm(x)
    np.testing.assert_allclose(y, want, atol=rounding)
    np.testing.assert_allclose(ops.hadamard(y, block, out=y), x, atol=2 * rounding)


def test_randk_is_shared_by_seed_and_step_and_fair() -> None:
    hits = np.zeros(200)
    for step in range(2000):
        _, indices = ops.randk(np.zeros(200, np.float32), k=20, seed=5, step=step)
        assert (np.diff(indices) > 0).all() and indices[0] >= 0 and indices[-1] < 200
        hits[indices] += 1
    # each count is binomial(2000, 0.1): mean 200, deviation 13.4; six deviations for the worst of 200
    assert np.abs(hits - 200).max() < 6 * 13.5
    again, other = (ops.randk(normal(5000), ratio=0.1, seed=1, step=s)[1] for s in (7, 8))
    np.testing.assert_array_equal(again, ops.randk(np.zeros(5000, np.float32), k=500, seed=1, step=7)[1])
    assert (again != other).any()
    for k in (0, 1, 5000):
        values, indices = ops.randk(normal(5000), k=k)
        np.testing.assert_array_equal(values, normal(5000)[indices])


def test_error_feedback_conserves_what_it_is_given() -> None:
    residual, total, sent = np.zeros(3000, np.float32), np.zeros(3000), np.zeros(3000)
    for step in range(10):
        x = normal(3000) * (step + 1)
        total += x
        sent += ops.dequantize(ops.error_feedback(x, residual, "int4", step=step))
    np.testing.assert_allclose(sent + residual, total, rtol=1e-4, atol=1e-4)


def test_every_width_of_the_family_quantises() -> None:
    errors = {}
    x = normal(64_000)
    for bits, name in ops._by_bits().items():
        q = ops.quantize(x, bits)
        assert q.codec.name == name
        errors[bits] = float(np.linalg.norm(ops.dequantize(q) - x) / np.linalg.norm(x))
    assert errors[8] < errors[4] < max(errors.values()) or set(errors) == {8, 4}
    assert max(errors.values()) < 1


class OnGpu:
    """As CuPy's arrays look from here."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (3,), "typestr": "<f4", "data": (1, False), "version": 3}


@pytest.mark.parametrize(
    "call",
    [ops.quantize, lambda x: ops.topk(x, k=1), lambda x: gradwire.encode(x, gradwire.codec("int8"))],
    ids=["quantize", "topk", "encode"],
)
def test_a_gpu_array_is_refused_with_the_remedy(call: Callable[[Any], Any]) -> None:
    usable = gradwire._native.gpu.status()["usable"]  # then the address, which is nobody's, is what is wrong
    error = gradwire.ArgumentError if usable else gradwire.GpuError
    with pytest.raises(error, match="not GPU memory" if usable else "copy them to the CPU"):
        call(OnGpu())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: ops.quantize(x, 4, codec="int8"), "not both"),
        (lambda x: ops.quantize(x, 9), "bits must be one of"),
        (lambda x: ops.error_feedback(x, np.zeros(63, np.float32), "int4"), "expected 64 elements, got 63"),
        (lambda x: ops.hadamard(x, 48), "power of two"),
        (lambda x: ops.hadamard(x, 128), "pad it with zeros"),
        (lambda x: ops.hadamard(x.astype(np.float64), 64), "must be float32"),
        (lambda x: ops.pack(x, 4), "must be uint8"),
        (lambda x: ops.pack(np.zeros(3, np.uint8), 9), "bits must be from 1 to 8"),
        (lambda x: ops.unpack(np.zeros(3, np.uint8), 4, 7), "expected 4 elements, got 3"),
        (lambda x: ops.randk(x, k=65), "between 0 and the 64"),
        (lambda x: ops.randk(np.zeros(3, np.int32)), "must hold floats"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(call: Any, match: str) -> None:
    with pytest.raises(gradwire.ArgumentError, match=match):
        call(normal(64))
