"""fp8, MX and NVFP4 written from their specifications in NumPy, without sharing an idea with the kernels:
codes are found by listing all values of a format and taking the nearest in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

# OCP 8-bit floating point specification, table 1; OCP Microscaling Formats specification v1.0, table 5
FORMATS = {"e4m3": (4, 3), "e5m2": (5, 2), "e2m1": (2, 1)}
EMAX = {"e4m3": 8, "e5m2": 15, "e2m1": 2}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0, "e2m1": 6.0}
Table = npt.NDArray[np.float64]


def values(name: str) -> Table:
    """The value of every code in order: [256], or [16] for e2m1."""
    exponent_bits, mantissa_bits = FORMATS[name]
    bias = 2 ** (exponent_bits - 1) - 1
    out = []
    for code in range(2 ** (1 + exponent_bits + mantissa_bits)):
        sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
        e, m = (code >> mantissa_bits) % 2**exponent_bits, code % 2**mantissa_bits
        fraction = m / 2**mantissa_bits
        v = 2.0 ** (1 - bias) * fraction if e == 0 else 2.0 ** (e - bias) * (1 + fraction)
        if name == "e4m3" and (e, m) == (15, 7):
            v = np.nan
        if name == "e5m2" and e == 31:
            v = np.inf if m == 0 else np.nan
        out.append(sign * v)
    return np.array(out)


def nearest(x: npt.NDArray[Any], name: str) -> Codes:
    """Codes of finite values: nearest, ties to the even code, too large becomes the largest."""
    table = values(name)
    positive = table[: table.size // 2]
    positive = positive[np.isfinite(positive)]
    middle = (positive[1:] + positive[:-1]) / 2  # exact in float64
    size = np.abs(x.astype(np.float64))
    code = np.searchsorted(middle, size, side="left")  # the lower code at a tie
    tie = (code < middle.size) & (size == middle[np.minimum(code, middle.size - 1)])
    code = code + (tie & (code % 2 == 1))
    return (code + np.signbit(x) * (table.size // 2)).astype(np.uint8)


def pack(codes: Codes) -> Codes:
    """Pairs of 4-bit codes, the first in the lower half."""
    return (codes[0::2] | codes[1::2] << 4).astype(np.uint8)


def mx(x: Floats, name: str) -> tuple[Codes, Codes, Floats]:
    """OCP MX v1.0, section 6.3. x: blocks of 32 finite values. E8M0 scales [n/32], codes [n], values."""
    blocks = x.reshape(-1, 32).astype(np.float64)
    largest = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore"):
        shared = np.where(largest > 0, np.floor(np.log2(largest)) - EMAX[name], -127)
    shared = np.maximum(shared, -127)
    scale = 2.0 ** shared[:, None]
    codes = nearest((blocks / scale).ravel(), name)
    decoded = values(name)[codes] * np.repeat(scale, 32)
    return (shared + 127).astype(np.uint8), codes, decoded.astype(np.float32)


def nvfp4(x: Floats) -> tuple[np.float32, Codes, Codes, Floats]:
    """x: one tensor, whole blocks of 16 finite values. Tensor scale, E4M3 scales [n/16], codes [n], values.
    All operations in fp32, in the order of torchao's nvfp4_quantize."""
    f = np.float32
    blocks = x.reshape(-1, 16)
    tensor = np.abs(x).max() / f(448 * 6)
    scales = nearest(np.clip(np.abs(blocks).max(axis=1) / f(6) / tensor, f(2.0**-6), f(448)), "e4m3")
    wide = values("e4m3")[scales].astype(f)
    codes = nearest((blocks * ((f(1) / tensor) / wide)[:, None]).ravel(), "e2m1")
    decoded = values("e2m1")[codes].astype(f) * np.repeat(wide * tensor, 16)
    return tensor, scales, codes, decoded
