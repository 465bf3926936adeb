"""Other people's quantisers, where they can be imported: one round trip, and the bits an element costs.

Bits are what would have to be sent: codes packed, scales in the type that the library keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

Trip = Callable[[torch.Tensor], torch.Tensor]  # flat fp32 of a multiple of 2048 -> what comes back
Peer = tuple[str, float, Trip]  # name, bits an element, round trip


def casts() -> Iterator[Peer]:
    yield "torch fp16 cast", 16, lambda x: x.half().float()
    yield "torch bf16 cast", 16, lambda x: x.bfloat16().float()
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):

        def scaled(x: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
            scale = x.abs().max() / torch.finfo(dtype).max
            return (x / scale).to(dtype).float() * scale

        yield f"torch {name}, one scale", 8, scaled

    def int8(x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(x, float(x.abs().max()) / 127, 0, torch.qint8).dequantize()

    yield "torch int8, one scale", 8, int8


def selections() -> Iterator[Peer]:
    for share in (0.01, 0.1):

        def topk(x: torch.Tensor, share: float = share) -> torch.Tensor:
            kept = x.abs().topk(round(len(x) * share), sorted=False).indices
            return torch.zeros_like(x).index_copy_(0, kept, x[kept])

        yield f"torch.topk {share:.0%}, int32 + fp32", 64 * share, topk


def torchao() -> Iterator[Peer]:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    for name, low, high, group in (("int8", -128, 127, 128), ("int4", -8, 7, 128), ("int4", -8, 7, 32)):
        args = {"quant_min": low, "quant_max": high, "block_size": (1, group)}

        def affine(x: torch.Tensor, group: int = group, args: dict[str, Any] = args) -> torch.Tensor:
            m = x.view(-1, group)
            scale, zero = choose_qparams_affine(m, MappingType.SYMMETRIC, target_dtype=torch.int8, **args)
            more = {"scale": scale, "zero_point": zero, **args}
            codes = quantize_affine(m, output_dtype=torch.int8, **more)
            back: torch.Tensor = dequantize_affine(codes, input_dtype=torch.int8, **more)
            return back.flatten()

        yield f"torchao {name}/{group}", (8 if name == "int8" else 4) + 32 / group, affine
    for name, element, bits in (
        ("mxfp8", torch.float8_e4m3fn, 8.25),
        ("mxfp4", torch.float4_e2m1fn_x2, 4.25),
    ):

        def mx(x: torch.Tensor, element: torch.dtype = element) -> torch.Tensor:
            back: torch.Tensor = MXTensor.to_mx(x.view(-1, 2048), element, 32).dequantize(torch.float32)
            return back.flatten()

        yield f"torchao {name}", bits, mx


def torchao_nvfp4() -> Iterator[Peer]:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    def nvfp4(x: torch.Tensor) -> torch.Tensor:
        scale = per_tensor_amax_to_scale(x.abs().max())
        coded = NVFP4Tensor.to_nvfp4(x.view(-1, 2048), per_tensor_scale=scale)
        back: torch.Tensor = coded.dequantize(torch.float32)
        return back.flatten()

    yield "torchao nvfp4", 4.5, nvfp4


def bitsandbytes() -> Iterator[Peer]:
    import bitsandbytes.functional as F

    def eight(x: torch.Tensor) -> torch.Tensor:
        codes, state = F.quantize_blockwise(x, blocksize=256)
        back: torch.Tensor = F.dequantize_blockwise(codes, state)
        return back

    yield "bitsandbytes 8-bit/256", 8 + 32 / 256, eight
    for kind in ("nf4", "fp4"):

        def four(x: torch.Tensor, kind: str = kind) -> torch.Tensor:
            codes, state = F.quantize_4bit(x, blocksize=64, quant_type=kind)
            back: torch.Tensor = F.dequantize_4bit(codes, state)
            return back.flatten()

        yield f"bitsandbytes {kind}/64", 4 + 32 / 64, four


def importable() -> tuple[list[Peer], list[str]]:
    """(peers of this interpreter, "name: why not" of the others)."""
    found: list[Peer] = []
    missing = []
    for family in (casts, selections, torchao, torchao_nvfp4, bitsandbytes):
        try:
            found += family()
        except Exception as error:  # a peer that is half installed fails in its own ways
            missing.append(f"{family.__name__}: {type(error).__name__}: {error}")
    return found, missing
