"""The stages of a codec on the GPU, each bound to arrays, with the CPU's answer and the bytes it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_suite.arrays import ITEM, Kind, as_bytes, cast

import gradwire
from gradwire import Codec, ops
from gradwire.ops import Quantized

RESIDUALS = {"fp32": "float32", "bf16": "bfloat16", "int8": "uint8"}  # form at rest: the array's dtype
_AT_REST = {"fp32": "identity", "bf16": "bf16", "int8": "int8(block=64)"}
STEP = 5  # for codecs that draw numbers

F32 = npt.NDArray[np.float32]


@dataclass
class Stage:
    """run: the call that is timed. wrong: elements (of a payload: bytes) that differ from the CPU's after the
    first `run`. bytes: read and written by one run."""

    name: str
    bytes: int
    run: Callable[[], object]
    wrong: Callable[[], int]


@dataclass
class Input:
    """x rounded to a dtype, on both sides. x: widened to fp32 again, which is exact."""

    kind: Kind
    x: F32
    there: Any
    nbytes: int


def has_kernels(codec: Codec, kind: Kind) -> bool:
    if not codec.fixed_size:
        return False
    x = kind.put(np.zeros(64, np.float32), "float32")
    try:
        ops.quantize(x, codec=codec)
    except gradwire.ArgumentError:
        return False
    return True


def stages(codec: Codec, x: F32, dtype: str, kind: Kind) -> Iterator[Stage]:
    """encode, encode with error feedback per form of residual, decode and decode_add, of x as `dtype`."""
    values = cast(x, dtype)
    given = Input(kind, _widened(values, dtype), kind.put(values, dtype), values.nbytes)
    payload = ops.quantize(given.x, codec=codec, step=STEP).payload
    out = kind.put(np.zeros_like(payload), "uint8")
    yield Stage(
        "encode",
        values.nbytes + payload.size,
        lambda: ops.quantize(given.there, codec=codec, step=STEP, out=out),
        lambda: _differing(kind.get(out), payload),
    )
    for rest in RESIDUALS:
        yield _feedback(codec, given, rest)

    decoded = ops.dequantize(Quantized(payload, codec, x.shape, "float32", STEP))
    coded = Quantized(kind.put(payload, "uint8"), codec, x.shape, dtype, STEP)
    target = kind.put(np.zeros_like(values), dtype)
    yield Stage(
        "decode",
        payload.size + values.nbytes,
        lambda: ops.dequantize(coded, out=target),
        lambda: _differing(kind.get(target), as_bytes(cast(decoded, dtype)), ITEM[dtype]),
    )
    total = kind.put(values, dtype)
    yield Stage(
        "decode_add",
        payload.size + 2 * values.nbytes,
        lambda: ops.dequantize(coded, out=total, add=True),
        lambda: _differing(kind.get(total), as_bytes(cast(given.x + decoded, dtype)), ITEM[dtype]),
    )


def _feedback(codec: Codec, given: Input, rest: str) -> Stage:
    at_rest, x, kind = _AT_REST[rest], given.x, given.kind
    begin = ops.quantize(np.roll(x, 1) / 8, codec=at_rest)
    residual = ops.dequantize(begin)
    payload = ops.error_feedback(x, residual, codec, step=STEP).payload
    end = ops.quantize(residual, codec=at_rest).payload
    out, owed = kind.put(np.zeros_like(payload), "uint8"), kind.put(begin.payload, RESIDUALS[rest])
    return Stage(
        f"encode_ef_{rest}",
        given.nbytes + payload.size + 2 * end.size,
        lambda: ops.error_feedback(given.there, owed, codec, step=STEP, out=out),
        lambda: _differing(kind.get(out), payload) + _differing(kind.get(owed), end),
    )


def _widened(values: npt.NDArray[Any], dtype: str) -> F32:
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _differing(got: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8], item: int = 1) -> int:
    if got.size != expected.size:
        return max(got.size, expected.size) // item
    return int((got != expected).reshape(-1, item).any(1).sum())
