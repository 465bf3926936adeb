"""What each collective means, in NumPy, without cleverness. n ranks; xs[r]: rank r's array, [count]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import exact
import numpy as np
import numpy.typing as npt

from gradwire import _native

Array = npt.NDArray[Any]
_FOLD = {"sum": np.add, "avg": np.add, "min": np.minimum, "max": np.maximum, "prod": np.multiply}


def all_reduce(xs: Sequence[Any], op: str, dtype: str) -> Any:
    """[count], the same on every rank: folded in rank order; 16-bit floats in fp32, rounded once."""
    wide = np.float32 if dtype in ("float16", "bfloat16") else np.dtype(dtype)
    total = exact.numbers(xs[0]).astype(wide)
    for x in xs[1:]:
        total = _FOLD[op](total, exact.numbers(x).astype(wide))
    if op == "avg":
        total = total * wide(1 / len(xs)) if wide is np.float32 else total * total.dtype.type(1 / len(xs))
    return exact.array(total, dtype)


def in_documented_order(xs: Sequence[Array], algorithm: str, op: str = "sum") -> Array:
    """[count] fp32: every chunk added in the order that its schedule documents, such as "((0+1)+2)+3"."""
    size, count = len(xs), len(xs[0])
    schedules = [_native.make_schedule(algorithm, "all_reduce", r, size) for r in range(size)]
    chunks = schedules[0].chunks
    per_chunk = -(-count // chunks)
    per_chunk = -(-per_chunk // 16) * 16  # chunks begin at multiples of 64 bytes
    out = np.empty(count, np.float32)
    for chunk in range(chunks):
        part = slice(min(count, chunk * per_chunk), min(count, (chunk + 1) * per_chunk))
        out[part] = evaluate(_native.sum_order(schedules, chunk), [x[part] for x in xs])
    return out * np.float32(1 / size) if op == "avg" else out


def evaluate(order: str, parts: Sequence[Array]) -> Array:
    """ "(0+1)+2" with numbers standing for parts."""
    assert re.fullmatch(r"[0-9+() ]+", order), order
    return np.asarray(eval(re.sub(r"\d+", lambda m: f"parts[{m.group()}]", order), {"parts": parts}))


def reduce_scatter(xs: Sequence[Any], op: str, dtype: str, rank: int) -> Any:
    """[count / n]: rank's share of the all-reduced array."""
    share = len(xs[0]) // len(xs)
    return all_reduce(xs, op, dtype)[rank * share : (rank + 1) * share]


def all_gather(xs: Sequence[Any], dtype: str) -> Any:
    """[n, count]"""
    return exact.array(np.stack([exact.numbers(x) for x in xs]), dtype)


def all_to_all(xs: Sequence[Any], dtype: str, rank: int) -> Any:
    """[count]: part s is what rank s has for this rank."""
    share = len(xs[0]) // len(xs)
    return exact.array(
        np.concatenate([exact.numbers(x)[rank * share : (rank + 1) * share] for x in xs]), dtype
    )
