"""gradwire.ops as torch custom operators: torch.ops.gradwire.*, loaded by `import gradwire.torch`.

They trace: a fake kernel says each result's shape, so that torch.compile(fullgraph=True) makes no graph
break and sizes may be dynamic. Defined with Library.define and impl, which costs a third of
torch.library.custom_op a call. CPU tensors; a tensor elsewhere has no kernel and torch says so.

    quantize(x, codec, step=0) -> payload             dequantize(payload, codec, shape, dtype, step=0) -> x
    quantize_out(x, codec, out!), dequantize_out(payload, codec, out!)
    error_feedback(x, residual!, codec, step=0) -> payload
    topk(x, k) -> (values, indices)                   randk(x, k, seed=0, step=0) -> (values, indices)
    hadamard(x, block=128)                            pack(codes, bits), unpack(packed, bits, count)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from gradwire import _native, ops
from gradwire.codecs import as_codec
from gradwire.errors import ArgumentError

# FRAGMENT: the namespace's definitions are spread over files.
_torch: Any = torch  # untyped where it defines operators
_LIBRARY = _torch.library.Library("gradwire", "FRAGMENT")


def _codec(spec: str) -> Any:
    codec = as_codec(spec)
    assert codec is not None
    if not codec.fixed_size:
        raise ArgumentError(f"codec {codec}: its payload's size depends on the values; use gradwire.encode")
    return codec


def _op(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(kernel: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.split("(", maxsplit=1)[0]
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, kernel, "CPU")
        torch.library.register_fake(f"gradwire::{name}", fake, lib=_LIBRARY)
        return kernel

    return wrap


# -- sizes under tracing -------------------------------------------------------------------------------------
@lru_cache(maxsize=256)
def _tail(spec: str) -> tuple[int, int, int, int, int] | None:
    """(block, bytes of one, bits, scale bytes, most), if a rest of L elements takes
    scale + min(ceil(L bits / 8), most) bytes: what a symbolic size can be made of."""
    codec = _codec(spec)
    block, whole = codec.block, codec.encoded_bytes(codec.block)
    for scale in range(9):
        most = whole - scale
        for bits in range(1, 65):
            if all(
                codec.encoded_bytes(rest) == scale + min((rest * bits + 7) // 8, most)
                for rest in range(1, block)
            ):
                return block, whole, bits, scale, most
    return None


def payload_bytes(spec: str, count: Any) -> Any:
    """encoded_bytes of an int or a symbolic int. A size no formula is known for is fixed by a guard."""
    form = None if isinstance(count, int) else _tail(spec)
    if form is None:
        return _codec(spec).encoded_bytes(int(count))
    block, whole, bits, scale, most = form
    rest = count % block
    started = (rest + block - 1) // block  # 1 if there is a rest
    return count // block * whole + started * scale + _torch.sym_min((rest * bits + 7) // 8, most)


def _bytes(x: torch.Tensor, count: Any) -> torch.Tensor:
    return x.new_empty((count,), dtype=torch.uint8)


# -- the operators -------------------------------------------------------------------------------------------
def _fake_quantize(x: torch.Tensor, codec: str, step: int = 0) -> torch.Tensor:
    return _bytes(x, payload_bytes(codec, x.numel()))


@_op("quantize(Tensor x, str codec, int step=0) -> Tensor", _fake_quantize)
def _quantize(x: torch.Tensor, codec: str, step: int = 0) -> torch.Tensor:
    made = _codec(codec)
    payload = torch.empty(made.encoded_bytes(x.numel()), dtype=torch.uint8)
    _native.quantize(x.contiguous(), made, payload, step)
    return payload


@_op("quantize_out(Tensor x, str codec, Tensor(a!) out, int step=0) -> ()", lambda *_: None)
def _quantize_out(x: torch.Tensor, codec: str, out: torch.Tensor, step: int = 0) -> None:
    _native.quantize(x.contiguous(), _codec(codec), out, step)


def _fake_dequantize(
    payload: torch.Tensor, codec: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0
) -> torch.Tensor:
    return payload.new_empty(tuple(shape), dtype=dtype)


@_op(
    "dequantize(Tensor payload, str codec, SymInt[] shape, ScalarType dtype, int step=0) -> Tensor",
    _fake_dequantize,
)
def _dequantize(
    payload: torch.Tensor, codec: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0
) -> torch.Tensor:
    out = torch.empty(tuple(shape), dtype=dtype)
    _native.dequantize(payload.contiguous(), _codec(codec), out, step)
    return out


@_op("dequantize_out(Tensor payload, str codec, Tensor(a!) out, int step=0) -> ()", lambda *_: None)
def _dequantize_out(payload: torch.Tensor, codec: str, out: torch.Tensor, step: int = 0) -> None:
    _native.dequantize(payload.contiguous(), _codec(codec), out, step)


def _fake_error_feedback(x: torch.Tensor, residual: torch.Tensor, codec: str, step: int = 0) -> torch.Tensor:
    return _bytes(x, payload_bytes(codec, x.numel()))


@_op(
    "error_feedback(Tensor x, Tensor(a!) residual, str codec, int step=0) -> Tensor",
    _fake_error_feedback,
)
def _error_feedback(x: torch.Tensor, residual: torch.Tensor, codec: str, step: int = 0) -> torch.Tensor:
    made = _codec(codec)
    payload = torch.empty(made.encoded_bytes(x.numel()), dtype=torch.uint8)
    _native.quantize(x.contiguous(), made, payload, step, residual=residual)
    return payload


def _fake_topk(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty((k,), dtype=torch.float32), x.new_empty((k,), dtype=torch.int64)


@_op("topk(Tensor x, SymInt k) -> (Tensor, Tensor)", _fake_topk)
def _topk(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = torch.empty(k, dtype=torch.float32), torch.empty(k, dtype=torch.int64)
    _native.topk(x.contiguous(), k, values, indices)
    return values, indices


@_op(
    "randk(Tensor x, SymInt k, int seed=0, int step=0) -> (Tensor, Tensor)",
    lambda x, k, seed=0, step=0: _fake_topk(x, k),
)
def _randk(x: torch.Tensor, k: int, seed: int = 0, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return ops.randk(x.contiguous(), k=k, seed=seed, step=step)


@_op("hadamard(Tensor x, int block=128) -> Tensor", lambda x, block=128: x.new_empty(x.shape))
def _hadamard(x: torch.Tensor, block: int = 128) -> torch.Tensor:
    out = torch.empty(x.shape)
    _native.hadamard(x.contiguous(), block, out)
    return out


@_op("pack(Tensor codes, int bits) -> Tensor", lambda x, bits: _bytes(x, (x.numel() * bits + 7) // 8))
def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    out: torch.Tensor = ops.pack(codes.contiguous(), bits)
    return out


@_op("unpack(Tensor packed, int bits, SymInt count) -> Tensor", lambda x, bits, count: _bytes(x, count))
def _unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    out: torch.Tensor = ops.unpack(packed.contiguous(), bits, count)
    return out
