"""Compression operators on one array: no frame header, no peer. Building blocks for a scheme of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradwire import _native, arrays
from gradwire._native import Codec
from gradwire.errors import ArgumentError

__all__ = ["Quantized", "dequantize", "quantize", "topk"]

_BY_BITS = {8: "int8", 4: "int4"}


@dataclass(frozen=True)
class Quantized:
    """What `quantize` returns: the packed bytes, and what is needed to undo it.

    payload: uint8[codec.encoded_bytes(count)], codes and scales as csrc/codec/WIRE_FORMAT.md lays them out.
    shape, dtype: of the array that was quantised.

    >>> import gradwire, numpy as np
    >>> gradwire.ops.quantize(np.zeros((4, 32), np.float32), bits=4).shape
    (4, 32)
    """

    payload: Any
    codec: Codec
    shape: tuple[int, ...]
    dtype: str


def quantize(x: Any, bits: int = 8, block: int = 0) -> Quantized:
    """Quantise to signed integers of `bits` (8 or 4) with one scale per `block` elements (0: the codec's
    default).

    x: float array of any shape. Within a block the element of largest magnitude is met exactly or to half a
    step. Raises ArgumentError for other bits, a block size the codec does not take, or an array that is not
    float.

    >>> import gradwire, numpy as np
    >>> q = gradwire.ops.quantize(np.float32([0.5, -1, 0.25, 0]), bits=4, block=32)
    >>> gradwire.ops.dequantize(q)
    array([ 0.5 , -1.  ,  0.25,  0.  ], dtype=float32)
    """
    name = _BY_BITS.get(bits)
    if name is None:
        raise ArgumentError(f"quantize: bits must be one of {sorted(_BY_BITS)}, got {bits!r}")
    codec = Codec(name, block)
    count, dtype = arrays.count_and_dtype(x)
    payload = arrays.empty(x, codec.encoded_bytes(count), "uint8")
    _native.quantize(x, codec, payload)
    return Quantized(payload, codec, arrays.shape_of(x), dtype)


def dequantize(q: Quantized, out: Any | None = None) -> Any:
    """Undo `quantize` up to rounding. Returns `out`, or a new array of q's kind, shape and dtype.

    out: float array of as many elements. A bfloat16 that came from torch stays one; without torch it is
    float32. Raises ArgumentError if out does not fit.

    >>> import gradwire, numpy as np
    >>> x = np.linspace(-3, 3, 256, dtype=np.float32)
    >>> y = gradwire.ops.dequantize(gradwire.ops.quantize(x, bits=8, block=32))
    >>> bool(abs(y - x).max() <= 3 / 127)
    True
    """
    if out is None:
        out = arrays.empty(q.payload, q.shape, q.dtype)
    _native.dequantize(q.payload, q.codec, out)
    return out


def topk(x: Any, ratio: float | None = None, k: int | None = None) -> tuple[Any, Any]:
    """The k elements of largest magnitude: exact over the whole array, deterministic, in index order.

    x: float array; it counts as flat. ratio: share to keep, 0 < ratio <= 1; k is then round(ratio * x.size),
    at least 1. Give one of ratio (0.01 if neither) and k. Of equal magnitudes the lower index is kept.
    Returns (values float32[k], indices int64[k]), of x's kind of array. NaN counts as larger than every
    number.

    >>> import gradwire, numpy as np
    >>> gradwire.ops.topk(np.float32([1, -5, 0, 5, 3]), k=2)
    (array([-5.,  5.], dtype=float32), array([1, 3]))
    """
    count, _ = arrays.count_and_dtype(x)
    if k is None:
        share = 0.01 if ratio is None else ratio
        if not 0 < share <= 1:
            raise ArgumentError(f"topk: ratio must be above 0 and at most 1, got {ratio}")
        k = min(count, max(1, round(share * count)))
    elif ratio is not None:
        raise ArgumentError("topk: give ratio or k, not both")
    if not 0 <= k <= count:
        raise ArgumentError(f"topk: k must be between 0 and the {count} elements of x, got {k}")
    values, indices = arrays.empty(x, k, "float32"), arrays.empty(x, k, "int64")
    _native.topk(x, k, values, indices)
    return values, indices
