"""Is a result right? Asked before it is timed: a wrong result is never timed.

Without loss: every rank's input is small whole numbers, so that the result is the same number in every order
of summation, and is compared element by element (an average may round once).

With a lossy codec: inputs are N(0, 1), and what the library promises is checked, which needs no tolerance for
the codec itself. Loss is conserved: what a rank lost at its encodes comes back in its residual, hence
    (size if op is avg else 1) * result + sum of the residuals = exact sum,
up to fp32 rounding. Every term is at most 2 size M, with M the largest input, and passes through fewer than
4 size roundings of 2^-24 relative, so the sides differ by less than 8 size * 2^-24 * size M, plus one
rounding of the result where its type is narrower. Also: all ranks hold the same bits, and the same bits as
without a residual.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradwire.bench.arguments import UsageError

if TYPE_CHECKING:
    from gradwire import Codec, Communicator

Doubles = npt.NDArray[np.float64]

# Inputs repeat with a prime period: quick to make at any size, and no two chunks of one array look alike.
_PERIOD = 65_521
_UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

DTYPES = {
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
}
ALIASES = {
    "fp32": "float32",
    "float": "float32",
    "fp64": "float64",
    "double": "float64",
    "bf16": "bfloat16",
} | {
    "fp16": "float16",
    "half": "float16",
}


@dataclass(frozen=True)
class Question:
    """One all_reduce, as far as its result goes."""

    rank: int
    size: int
    count: int
    dtype: str
    op: str

    @property
    def nbytes(self) -> int:
        return self.count * DTYPES[self.dtype]


def empty(count: int, dtype: str) -> Any:
    """An array of zeros. NumPy has no bfloat16: a torch tensor stands in."""
    if dtype != "bfloat16":
        return np.zeros(count, dtype)
    try:
        import torch
    except ImportError:
        raise UsageError("bfloat16 needs torch (NumPy has no such type): pip install torch") from None
    return torch.zeros(count, dtype=torch.bfloat16)


def assign(array: Any, values: npt.NDArray[Any]) -> None:
    """array[:] = values, rounded to the array's type."""
    if isinstance(array, np.ndarray):
        array[:] = values
    else:
        import torch

        array.copy_(torch.from_numpy(np.ascontiguousarray(values, np.float32)))


def to_doubles(array: Any) -> Doubles:
    values = array if isinstance(array, np.ndarray) else array.double().numpy()
    return values.astype(np.float64)


def _tile(base: Doubles, count: int) -> Doubles:
    return np.resize(base, count)


def _whole_numbers(q: Question, rank: int) -> Doubles:
    rng = np.random.default_rng([1, rank])
    if q.op == "prod":  # powers of two are exact in every type; four ranks at most contribute one
        return rng.choice([1.0, 2.0], _PERIOD) if rank < 4 else np.ones(_PERIOD)
    # bfloat16 holds whole numbers up to 256, uint8 up to 255: the sum over all ranks has to fit
    largest = max(1, min(8, 255 // q.size))
    smallest = 0 if q.dtype == "uint8" else -largest
    return rng.integers(smallest, largest, _PERIOD, endpoint=True).astype(np.float64)


def _normals(q: Question, rank: int) -> Doubles:
    array = empty(_PERIOD, q.dtype)
    assign(array, np.random.default_rng([2, rank]).standard_normal(_PERIOD, np.float32))
    return to_doubles(array)


_FOLD: dict[str, Any] = {"sum": np.sum, "avg": np.mean, "min": np.min, "max": np.max, "prod": np.prod}


def exact_input(q: Question) -> Doubles:
    return _tile(_whole_numbers(q, q.rank), q.count)


def exact_result(q: Question) -> Doubles:
    rows = np.stack([_whole_numbers(q, rank) for rank in range(q.size)])
    return _tile(_FOLD[q.op](rows, axis=0), q.count)


def normal_input(q: Question) -> Doubles:
    return _tile(_normals(q, q.rank), q.count)


def count_wrong(q: Question, got: Any) -> int:
    """Elements of a lossless result that differ from the exact one."""
    want = exact_result(q)
    # 1/size is rounded once and the product once; both are exact when size is a power of two
    slack = 2 * _UNIT_ROUNDOFF[q.dtype] * np.abs(want) if q.op == "avg" and q.size & (q.size - 1) else 0.0
    return int(np.count_nonzero(~(np.abs(to_doubles(got) - want) <= slack)))  # so that NaN counts as wrong


@dataclass(frozen=True)
class Verdict:
    wrong: int
    rel_err: float  # |result - exact| / |exact|, L2


def lossless(comm: Communicator, q: Question, call: Any) -> Verdict:
    """`call(array)` reduces in place: any library's all_reduce."""
    array = empty(q.count, q.dtype)
    assign(array, exact_input(q))
    call(array)
    return Verdict(_worst(comm, count_wrong(q, array)), 0.0)


def lossy(comm: Communicator, q: Question, codec: Codec, algorithm: str) -> Verdict:
    mine = normal_input(q)
    plain, kept = empty(q.count, q.dtype), empty(q.count, q.dtype)
    assign(plain, mine)
    assign(kept, mine)
    residual = np.zeros(q.count, np.float32)
    comm.all_reduce(plain, op=q.op, codec=codec, algorithm=algorithm)
    comm.all_reduce(kept, op=q.op, codec=codec, algorithm=algorithm, residual=residual)
    lost = residual.astype(np.float64)
    if q.size > 1:
        comm.all_reduce(lost, op="sum")
    weight = q.size if q.op == "avg" else 1
    result = to_doubles(kept)
    rows = np.stack([_normals(q, rank) for rank in range(q.size)])
    exact = _tile(rows.sum(axis=0), q.count)
    bound = 8 * q.size * 2.0**-24 * q.size * np.abs(rows).max()
    if q.dtype in ("float16", "bfloat16"):
        bound = bound + weight * _UNIT_ROUNDOFF[q.dtype] * np.abs(result)
    wrong = np.count_nonzero(~(np.abs(weight * result + lost - exact) <= bound))
    raw = _bytes_of(plain)
    differs = int(raw != _bytes_of(kept)) + _differs_between_ranks(comm, raw)
    norm = float(np.linalg.norm(exact)) or 1.0
    error = float(np.linalg.norm(weight * to_doubles(plain) - exact)) / norm
    return Verdict(_worst(comm, int(wrong) + differs), error)


def _bytes_of(array: Any) -> bytes:
    return bytes((array if isinstance(array, np.ndarray) else array.float().numpy()).tobytes())


def _differs_between_ranks(comm: Communicator, raw: bytes) -> int:
    """1 if the ranks' results are not the same bits."""
    own = zlib.crc32(raw)
    ends = np.array([own, -own], np.int64)
    comm.all_reduce(ends, op="max")
    return int(ends[0] != -ends[1])


def _worst(comm: Communicator, wrong: int) -> int:
    """The same verdict on every rank, so that all of them time it or none does."""
    most = np.array([wrong], np.int64)
    comm.all_reduce(most, op="max")
    return int(max(most[0], wrong))
