"""The codecs' CUDA kernels give the CPU's bytes: every codec, dtype, count, address and form of residual."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import _native, ops
from gradwire._native import Codec
from gradwire.testing import to_cpu, to_gpu

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from memory import Placed  # noqa: E402
from test_wire_format import GOLDEN, GOLDEN_CODECS, STEPS, codec_name, golden_input  # noqa: E402

torch = pytest.importorskip("torch")

VARIABLE = ("rice4", "lossless")
GOLDEN_NAMES = [n for n in GOLDEN_CODECS if n not in VARIABLE]
SPECS = {n: Codec(codec_name(n), **GOLDEN_CODECS[n]) for n in GOLDEN_NAMES} | {
    "int8_stochastic": Codec("int8", block=64, rounding="stochastic", seed=1),
    "int6_block64": Codec("int6", block=64),
    "int5_block32": Codec("int5", block=32, levels="lloyd-max"),
    "int3_block64": Codec("int3", block=64, levels="lloyd-max"),
    "int2_block32": Codec("int2", block=32, levels="lloyd-max"),
    "sign_block32": Codec("sign", block=32),
    # indices as plain numbers and as a bitmap; whole blocks
    "topk_one": Codec("topk", ratio=0.0002),
    "topk_dense": Codec("topk", ratio=0.4, values="int4"),
    "topk_all": Codec("topk", ratio=1, values="int8"),
    "randk_fp32": Codec("randk", ratio=0.3, values="fp32", seed=9),
    "randk_int4": Codec("randk", ratio=1, values="int4"),
}
DTYPES = ("float32", "bfloat16", "float16")


def counts_of(codec: Codec) -> list[int]:
    block = codec.block
    return sorted({0, 1, 7, block - 1, block, block + 1, 1023, 1024 + block + 5, 3 * 1024 + 11})


def values(count: int, dtype: str, seed: int = 0) -> Any:
    """Waves of many sizes with zeros, ties and the special values, as a CPU torch tensor."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(count) * np.exp2(rng.integers(-6, 6, count))).astype(np.float32)
    x[rng.random(count) < 0.05] = 0
    if count > 300:
        x[260:262] = np.nan, np.inf
        x[40:80] = 2.0
        x[130:180] = 0
        x[200] = 3e38
        x[201] = 1e-42
    return torch.from_numpy(x).to(getattr(torch, dtype))


def raw(tensor: Any) -> npt.NDArray[np.uint8]:
    return tensor.contiguous().view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)


def placed(tensor: Any, shift: int) -> Placed:
    return Placed(tensor.numel(), str(tensor.dtype).removeprefix("torch."), shift, raw(tensor))


def on_cpu(x: Any, codec: Codec, step: int, residual: Any) -> npt.NDArray[np.uint8]:
    payload = np.empty(codec.encoded_bytes(x.numel()), np.uint8)
    _native.quantize(x, codec, payload, step, residual=residual)
    return payload


def cases(codec: Codec) -> list[tuple[int, str, int]]:
    """(count, dtype, shift in elements): every count, and over them every dtype at every alignment."""
    plan = [(d, s) for s in (0, 1, 3) for d in DTYPES]
    return [(n, *plan[i % len(plan)]) for i, n in enumerate(counts_of(codec))]


@pytest.mark.parametrize("name", SPECS)
def test_bytes_are_those_of_the_cpu(name: str, order: str) -> None:
    codec = SPECS[name]
    for i, (count, dtype, shift) in enumerate(cases(codec)):
        x = values(count, dtype, seed=i)
        there = placed(x, shift * x.element_size())
        payload = Placed(codec.encoded_bytes(count), "uint8", shift=i % 17)
        ops.quantize(there, codec=codec, step=5, out=payload)
        np.testing.assert_array_equal(payload.bytes(), on_cpu(x, codec, 5, None), f"{count} {dtype} +{shift}")
        np.testing.assert_array_equal(there.bytes(), raw(x))


@pytest.mark.parametrize("name", SPECS)
def test_decoding_gives_the_values_of_the_cpu(name: str, order: str) -> None:
    codec = SPECS[name]
    for i, (count, dtype, shift) in enumerate(cases(codec)):
        host = on_cpu(values(count, "float32", seed=i), codec, 5, None)
        expected = torch.empty(count, dtype=getattr(torch, dtype))
        _native.dequantize(host, codec, expected, 5)
        payload = Placed(host.size, "uint8", i % 17, host)
        out = Placed(count, dtype, shift * expected.element_size())
        _native.gpu.dequantize(payload, codec, out, 5)
        np.testing.assert_array_equal(out.bytes(), raw(expected), f"{count} {dtype} +{shift}")

        start = values(count, dtype, seed=100 + i).nan_to_num()
        total = placed(start, shift * start.element_size())
        _native.gpu.dequantize(payload, codec, total, 5, add=True)
        # NumPy has no decode_add without a frame: the sum in fp32, rounded once
        decoded = torch.empty(count, dtype=torch.float32)
        _native.dequantize(host, codec, decoded, 5)
        summed = (start.float() + decoded).to(start.dtype)
        got = torch.from_numpy(total.bytes().copy()).view(start.dtype) if count else summed
        torch.testing.assert_close(got, summed, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", SPECS)
def test_error_feedback_leaves_the_residual_of_the_cpu(name: str, kind: str) -> None:
    codec = SPECS[name]
    at_rest = {"float32": Codec("identity"), "bfloat16": Codec("bf16"), "int8": Codec("int8", block=64)}[kind]
    for i, (count, dtype, shift) in enumerate(cases(codec)):
        x = values(count, dtype, seed=i)
        rest = np.empty(at_rest.encoded_bytes(count), np.uint8)
        _native.quantize(values(count, "float32", seed=50 + i).nan_to_num() / 8, at_rest, rest)
        residual = np.empty(count, np.float32)
        _native.dequantize(rest, at_rest, residual)
        width = {"float32": 4, "bfloat16": 2, "int8": 1}[kind]
        if kind == "int8":
            there = Placed(rest.size, "uint8", shift, rest)
        else:
            there = Placed(count, kind, shift * width, rest)

        expected = on_cpu(x, codec, 5, residual)
        _native.quantize(residual, at_rest, rest)
        payload = Placed(expected.size, "uint8", shift)
        ops.error_feedback(placed(x, 0), there, codec, step=5, out=payload)
        np.testing.assert_array_equal(payload.bytes(), expected, f"{count} {dtype} +{shift}")
        np.testing.assert_array_equal(there.bytes(), rest, f"residual of {count} {dtype} +{shift}")


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_bytes_come_out_of_the_kernels(name: str, order: str) -> None:
    codec = SPECS[name]
    q = ops.quantize(to_gpu(golden_input()), codec=codec, step=STEPS.get(name, 0))
    assert to_cpu(q.payload).tobytes() == (GOLDEN / f"{name}.bin").read_bytes()[_native.HEADER_BYTES :]


def test_new_arrays_lie_where_the_old_one_does() -> None:
    x = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100)
    q = ops.quantize(to_gpu(x), bits=8)
    assert isinstance(q.payload, _native.gpu.DeviceArray) and q.shape == (10, 100)
    y = ops.dequantize(q)
    np.testing.assert_array_equal(to_cpu(y), ops.dequantize(ops.quantize(x, bits=8)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: ops.quantize(x, codec="rice4"), "size depends on the values"),
        (lambda x: ops.quantize(x, out=np.empty(1032, np.uint8)), "payload must be in GPU memory"),
        (lambda x: ops.quantize(x, out=to_gpu(np.zeros(3, np.uint8))), "expected .* elements, got 3"),
        (lambda x: ops.error_feedback(x, to_gpu(np.zeros(7, np.float32)), "int4"), "64 elements, got 7"),
        (lambda x: ops.error_feedback(x, to_gpu(np.zeros(64, np.int64)), "int4"), "residual must be float32"),
        (lambda x: ops.quantize(to_gpu(np.zeros(64))), "float32, bfloat16 and float16, got float64"),
        (lambda x: gradwire.encode(x, "int8"), "works on CPU arrays"),
    ],
)
def test_bad_input_is_named(call: Any, match: str) -> None:
    with pytest.raises(gradwire.ArgumentError, match=match):
        call(to_gpu(np.zeros(64, np.float32)))
