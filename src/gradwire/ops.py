"""Compression operators on one array: no frame header, no peer. Building blocks for a scheme of your own.

Each takes NumPy arrays, torch tensors, or anything with DLPack or the buffer protocol, and gives equal bytes
for equal values. With `out=` (and friends) nothing of the arrays' size is allocated. quantize, dequantize,
error_feedback, topk and randk take arrays in GPU memory as well (torch, CuPy,
`__cuda_array_interface__`), all of a call on one GPU: the work is put on the caller's current stream and not
waited for, and the bytes are the CPU's. The others raise ArgumentError for them. `import gradwire.torch`
makes the same available to torch.compile as torch.ops.gradwire.*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradwire import _native, arrays
from gradwire._native import Codec
from gradwire.codecs import as_codec
from gradwire.errors import ArgumentError

__all__ = [
    "Quantized",
    "dequantize",
    "error_feedback",
    "hadamard",
    "pack",
    "quantize",
    "randk",
    "topk",
    "unpack",
]


@dataclass(frozen=True)
class Quantized:
    """What `quantize` returns: the packed bytes, and what is needed to undo it.

    payload: uint8[codec.encoded_bytes(count)], codes and scales as csrc/codec/WIRE_FORMAT.md lays them out.
    shape, dtype: of the array that was quantised. step: the one that was given.

    >>> import gradwire, numpy as np
    >>> gradwire.ops.quantize(np.zeros((4, 32), np.float32), bits=4).shape
    (4, 32)
    """

    payload: Any
    codec: Codec
    shape: tuple[int, ...]
    dtype: str
    step: int = 0


def _by_bits() -> dict[int, str]:
    """The quantisers of this build: codecs called int and a number of bits."""
    names = _native.codec_names()
    spellings = {**{bits: (f"int{bits}",) for bits in range(2, 9)}, 1: ("sign",)}
    return {bits: name for bits, allowed in spellings.items() for name in allowed if name in names}


def quantize(
    x: Any,
    bits: int | None = None,
    block: int = 0,
    *,
    codec: Codec | str | None = None,
    levels: str = "",
    step: int = 0,
    out: Any | None = None,
) -> Quantized:
    """Quantise to codes of `bits` (8 if None), with one scale per `block` elements (0: the codec's default).

    x: float array of any shape. codec: any codec instead of bits and block, such as
    "int4(levels=lloyd-max)". levels: "signed-max" or "lloyd-max", where the codec has both. step: for codecs
    with a seed. out: uint8[codec.encoded_bytes(x.size)], written instead of a new array.
    Raises ArgumentError for bits that this build does not have, a parameter that the codec does not take, a
    codec whose size depends on the values, or an array that is not float.

    >>> import gradwire, numpy as np
    >>> q = gradwire.ops.quantize(np.float32([0.5, -1, 0.25, 0]), bits=4, block=32)
    >>> gradwire.ops.dequantize(q)
    array([ 0.5 , -1.  ,  0.25,  0.  ], dtype=float32)
    """
    chosen = as_codec(codec)
    if chosen is None:
        known = _by_bits()
        name = known.get(8 if bits is None else bits)
        if name is None:
            raise ArgumentError(f"quantize: bits must be one of {sorted(known)}, got {bits!r}")
        chosen = Codec(name, block, levels=levels)
    elif bits is not None or block or levels:
        raise ArgumentError("quantize: give codec=, or bits, block and levels, not both")
    count, dtype = arrays.count_and_dtype(x)
    payload = _payload(x, chosen, count, out)
    arrays.kernels(x).quantize(x, chosen, payload, step)
    return Quantized(payload, chosen, arrays.shape_of(x), dtype, step)


def _payload(x: Any, codec: Codec, count: int, out: Any | None) -> Any:
    if not codec.fixed_size:
        raise ArgumentError(f"codec {codec}: its size depends on the values; use gradwire.encode")
    return arrays.empty(x, codec.encoded_bytes(count), "uint8") if out is None else out


def dequantize(q: Quantized, out: Any | None = None, *, add: bool = False) -> Any:
    """Undo `quantize` up to rounding. Returns `out`, or a new array of q's kind, shape and dtype.

    out: float array of as many elements. A bfloat16 that came from torch stays one; without torch it is
    float32. add: add to what out holds, in fp32, in one pass. Raises ArgumentError if out does not fit, or if
    there is none to add to.

    >>> import gradwire, numpy as np
    >>> x = np.linspace(-3, 3, 256, dtype=np.float32)
    >>> y = gradwire.ops.dequantize(gradwire.ops.quantize(x, bits=8, block=32))
    >>> bool(abs(y - x).max() <= 3 / 127)
    True
    """
    if out is None:
        if add:
            raise ArgumentError("dequantize: add=True adds to out, and there is none: pass out=")
        out = arrays.empty(q.payload, q.shape, q.dtype)
    arrays.kernels(out).dequantize(q.payload, q.codec, out, q.step, add=add)
    return out


def error_feedback(
    x: Any, residual: Any, codec: Codec | str, *, step: int = 0, out: Any | None = None
) -> Quantized:
    """One step of error feedback: quantise x + residual, and leave in residual what that lost.

    x: float array. residual: float32 of as many elements, changed in place; on a GPU also bfloat16, or the
    bytes of the codec int8(block=64), uint8[x.size + 2 * ceil(x.size / 64)]. codec, step, out: as in
    quantize.
    `gradwire.ErrorFeedback` keeps residuals by name, in fewer bytes if asked.

    >>> import gradwire, numpy as np
    >>> residual = np.zeros(3, np.float32)
    >>> q = gradwire.ops.error_feedback(np.float32([1, 0.3, -8]), residual, "int4")
    >>> sent = gradwire.ops.dequantize(q)
    >>> sent + residual
    array([ 1. ,  0.3, -8. ], dtype=float32)
    """
    chosen = as_codec(codec)
    if chosen is None:
        raise ArgumentError("error_feedback needs a codec")
    count, dtype = arrays.count_and_dtype(x)
    payload = _payload(x, chosen, count, out)
    arrays.kernels(x).quantize(x, chosen, payload, step, residual=residual)
    return Quantized(payload, chosen, arrays.shape_of(x), dtype, step)


def _kept(verb: str, count: int, ratio: float | None, k: int | None) -> int:
    if k is None:
        share = 0.01 if ratio is None else ratio
        if not 0 < share <= 1:
            raise ArgumentError(f"{verb}: ratio must be above 0 and at most 1, got {ratio}")
        k = min(count, max(1, round(share * count)))
    elif ratio is not None:
        raise ArgumentError(f"{verb}: give ratio or k, not both")
    if not 0 <= k <= count:
        raise ArgumentError(f"{verb}: k must be between 0 and the {count} elements of x, got {k}")
    return k


def topk(
    x: Any, ratio: float | None = None, k: int | None = None, *, out: tuple[Any, Any] | None = None
) -> tuple[Any, Any]:
    """The k elements of largest magnitude: exact over the whole array, deterministic, in index order.

    x: float array; it counts as flat. ratio: share to keep, 0 < ratio <= 1; k is then round(ratio * x.size),
    at least 1. Give one of ratio (0.01 if neither) and k. Of equal magnitudes the lower index is kept. out:
    (float32[k], int64[k]).
    Returns (values float32[k], indices int64[k]), of x's kind of array. NaN counts as larger than every
    number. On a GPU x has fewer than 2**31 elements of float32, bfloat16 or float16 and is read twice;
    scratch of about 600 KB + 16 k + x.size / 256 bytes comes from x's own allocator.

    >>> import gradwire, numpy as np
    >>> gradwire.ops.topk(np.float32([1, -5, 0, 5, 3]), k=2)
    (array([-5.,  5.], dtype=float32), array([1, 3]))
    """
    count, _ = arrays.count_and_dtype(x)
    k = _kept("topk", count, ratio, k)
    values, indices = out or (arrays.empty(x, k, "float32"), arrays.empty(x, k, "int64"))
    if arrays.on_gpu(x):
        scratch = arrays.empty(x, _native.gpu.topk_bytes(count, k), "uint8")
        _native.gpu.topk(x, k, values, indices, scratch)
    else:
        _native.topk(x, k, values, indices)
    return values, indices


def randk(
    x: Any,
    ratio: float | None = None,
    k: int | None = None,
    *,
    seed: int = 0,
    step: int = 0,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """k elements chosen at random, each set of k equally likely: the same ones wherever seed, step, k and the
    number of elements are the same, so that indices need not travel.

    x, ratio, k, out: as in topk. seed, step: 0 to 2**64 - 1; another step chooses others. Values are as in x,
    as float32; times x.size / k they are an unbiased estimate. Returns (values, indices), in index order.
    For an array on a GPU the host draws, as for one of its own, and waits until the indices are there.

    >>> import gradwire, numpy as np
    >>> values, indices = gradwire.ops.randk(np.arange(1000, dtype=np.float32), k=3, seed=1)
    >>> (values == indices).all(), sorted(indices) == list(indices)
    (np.True_, True)
    """
    k = _kept("randk", arrays.count_and_dtype(x)[0], ratio, k)
    values, indices = out or (arrays.empty(x, k, "float32"), arrays.empty(x, k, "int64"))
    arrays.kernels(x).randk(x, seed, step, values, indices)
    return values, indices


def hadamard(x: Any, block: int = 128, *, out: Any | None = None) -> Any:
    """The orthonormal Walsh-Hadamard transform of every `block` consecutive elements; its own inverse.

    It spreads outliers over their block before quantising. x: float32, a multiple of block elements, any
    shape. block: a power of two. out: float32 of as many elements; may be x. Raises ArgumentError if x does
    not divide: pad it with zeros.

    >>> import gradwire, numpy as np
    >>> gradwire.ops.hadamard(np.float32([4, 0, 0, 0]), block=4)
    array([2., 2., 2., 2.], dtype=float32)
    """
    if out is None:
        out = arrays.empty_like(x)
    _native.hadamard(x, block, out)
    return out


def pack(codes: Any, bits: int, *, out: Any | None = None) -> Any:
    """Put codes of 1 to 8 bits side by side, the first in the lowest bits.

    codes: uint8; bits above `bits` are dropped. out: uint8[ceil(codes.size * bits / 8)].

    >>> import gradwire, numpy as np
    >>> gradwire.ops.pack(np.uint8([1, 2, 3]), bits=4)
    array([33,  3], dtype=uint8)
    """
    count, _ = arrays.count_and_dtype(codes)
    if out is None:
        out = arrays.empty(codes, (count * bits + 7) // 8, "uint8")
    _native.pack_bits(codes, bits, out)
    return out


def unpack(packed: Any, bits: int, count: int, *, out: Any | None = None) -> Any:
    """Undo `pack`: the first `count` codes. packed: uint8[ceil(count * bits / 8)]. out: uint8[count].

    >>> import gradwire, numpy as np
    >>> gradwire.ops.unpack(np.uint8([33, 3]), bits=4, count=3)
    array([1, 2, 3], dtype=uint8)
    """
    if out is None:
        out = arrays.empty(packed, count, "uint8")
    _native.unpack_bits(packed, bits, out)
    return out
