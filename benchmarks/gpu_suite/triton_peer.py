"""int8 with one scale per 64 values as a Triton kernel: one program a thousand values, a block a row."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

ROWS = 16  # blocks a program


@triton.jit
def _quantise(  # noqa: PLR0917 - a kernel takes its arguments one by one
    x, residual, codes, scales, rows, R: tl.constexpr, B: tl.constexpr
):
    row = tl.program_id(0) * R + tl.arange(0, R)
    at = row[:, None] * B + tl.arange(0, B)[None, :]
    inside = (row < rows)[:, None]
    y = tl.load(x + at, inside, 0.0) + tl.load(residual + at, inside, 0.0)
    scale = tl.maximum(tl.max(tl.abs(y), 1) / 127, 1e-30)
    # floor(v + 1/2): Triton has no rounding of its own in every version
    q = tl.floor(y / scale[:, None] + 0.5)
    tl.store(codes + at, q.to(tl.int8), inside)
    tl.store(residual + at, y - q * scale[:, None], inside)
    tl.store(scales + row, scale, row < rows)


@triton.jit
def _dequantise_add(  # noqa: PLR0917
    codes, scales, total, rows, R: tl.constexpr, B: tl.constexpr
):
    row = tl.program_id(0) * R + tl.arange(0, R)
    at = row[:, None] * B + tl.arange(0, B)[None, :]
    inside = (row < rows)[:, None]
    q = tl.load(codes + at, inside, 0).to(tl.float32)
    scale = tl.load(scales + row, row < rows, 0.0)
    tl.store(total + at, tl.load(total + at, inside, 0.0) + q * scale[:, None], inside)


def quantise(x: Any, residual: Any, codes: Any, scales: Any) -> None:
    """As peers.quantise: x, residual fp32[rows, block], codes int8[rows, block], scales fp32[rows, 1]."""
    rows, block = x.shape
    _quantise[(triton.cdiv(rows, ROWS),)](x, residual, codes, scales, rows, ROWS, block)


def dequantise_add(codes: Any, scales: Any, total: Any) -> None:
    rows, block = total.shape
    _dequantise_add[(triton.cdiv(rows, ROWS),)](codes, scales, total, rows, ROWS, block)
