"""PowerSGD: gradient averaging through factors of low rank, on top of the plain collectives.

Source: Vogels, Karimireddy, Jaggi: PowerSGD, NeurIPS 2019, algorithms 1 and 2. A matrix M = gradient +
residual becomes M Q, averaged over the ranks and made orthonormal (P), then M^T P, averaged (Q). The result P
Q^T is the same on every rank, bit for bit; Q is where the next step begins. What a rank's M differs from the
result is its residual, so that, as for every codec, sum of residuals = exact sum - ranks * result.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradwire import _native
from gradwire.errors import ArgumentError
from gradwire.feedback import ErrorFeedback
from gradwire.spec import arguments, boolean

__all__ = ["PowerSGD"]

Floats = npt.NDArray[np.float32]


@dataclass
class Item:
    """One matrix of a step. value: float32[rows, cols], gradient + residual, becomes the loss; out: the same
    shape, receives the average."""

    name: str
    value: Floats
    out: Floats


@dataclass
class PowerSGD:
    """Averages matrices through factors of `rank` columns; smaller and one-dimensional arrays go as they are.

    rank: columns of each factor; a matrix of [n, m] costs rank * (n + m) values in place of n * m.
    min_compression_rate: matrices for which n * m / (rank * (n + m)) stays below it travel uncompressed.
    warm_start: begin each step with the last one's Q (else with new random numbers). error_feedback: add what
    was lost to the next step's values. seed: of the first Q, which depends on (seed, name, shape) alone, so
    that it is equal on every rank. An array of more than two dimensions counts as [shape[0], the rest], as
    convolutions do in the paper. Raises ArgumentError for a rank below 1.

    One object holds the state of one model: use one instance per rank and model.

    >>> import gradwire, numpy as np
    >>> def rank(comm):
    ...     gradient = np.outer(np.arange(64.0), np.ones(32)).astype(np.float32) * (comm.rank + 1)
    ...     gradwire.PowerSGD(rank=1).all_reduce(comm, {"weight": gradient})
    ...     return gradient[2, :2]
    >>> [row.round(3).tolist() for row in gradwire.testing.run_ranks(2, rank)]  # 2 * average of 1 and 2
    [[3.0, 3.0], [3.0, 3.0]]
    """

    rank: int = 1
    min_compression_rate: float = 2.0
    warm_start: bool = True
    error_feedback: bool = True
    seed: int = 0
    _q: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)
    _feedback: ErrorFeedback = field(default_factory=ErrorFeedback, repr=False, compare=False)
    _steps: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ArgumentError(f"powersgd: rank must be at least 1, got {self.rank}")

    @classmethod
    def parse(cls, spec: str) -> PowerSGD | None:
        """From "powersgd(rank=2, warm_start=False)"; None if the text names something else."""
        kinds: dict[str, Callable[[str], Any]] = {"rank": int, "min_compression_rate": float, "seed": int}
        given = arguments(spec, "powersgd", {**kinds, "warm_start": boolean, "error_feedback": boolean})
        return None if given is None else cls(**given)

    def __str__(self) -> str:
        return f"powersgd(rank={self.rank})"

    def compresses(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape travels as factors.

        >>> import gradwire
        >>> [gradwire.PowerSGD(rank=2).compresses(s) for s in [(512, 512), (512,), (64, 3, 3, 3), (2, 600)]]
        [True, False, False, False]
        """
        if len(shape) < 2:
            return False
        rows, cols = matrix_shape(shape)
        return rows * cols > 0 and self.min_compression_rate * self.rank * (rows + cols) <= rows * cols

    def all_reduce(self, comm: Any, arrays: Mapping[str, Any], timeout: float | None = None) -> None:
        """Average every array over the ranks of `comm`, in place. Three collectives however many arrays there
        are.

        arrays: name -> contiguous float32 array (NumPy, or a CPU torch tensor), the same names, order and
        shapes on every rank; the name is what state is kept under. Raises what `Communicator.all_reduce`
        raises, ArgumentError if an array is not contiguous float32.
        """
        views = {name: _numpy_view(name, array) for name, array in arrays.items()}
        coded = {name: x for name, x in views.items() if self.compresses(x.shape)}
        dense = [x.reshape(-1) for name, x in views.items() if name not in coded]
        if dense:
            packed = np.concatenate(dense)
            comm.all_reduce(packed, op="avg", timeout=timeout)
            at = 0
            for x in dense:
                x[:] = packed[at : at + x.size]
                at += x.size
        for name, x in coded.items():
            self._feedback.declare(name, x.size)
        with self._feedback.borrow(*coded) as owed:
            items, at = [], 0
            for name, x in coded.items():
                value = owed[at : at + x.size].reshape(matrix_shape(x.shape))
                out = x.reshape(value.shape)
                np.add(value if self.error_feedback else np.float32(0), out, out=value)
                items.append(Item(name, value, out))
                at += x.size
            self.reduce(comm, items, timeout)

    def reduce(self, comm: Any, items: Sequence[Item], timeout: float | None = None, **how: Any) -> None:
        """The two collectives of one step over `items`, with the callers' own residuals. `how`: for
        all_reduce."""
        if not items:
            return
        q, packed_q = _packed([(self._width(i), i.value.shape[1]) for i in items])
        p, packed_p = _packed([(self._width(i), i.value.shape[0]) for i in items])
        for item, to in zip(items, q):
            to[:] = self._start(item)
        for item, from_, to in zip(items, q, p):
            _native.low_rank_project(item.value, from_, to)
        comm.all_reduce(packed_p, op="avg", timeout=timeout, **how)
        for item, left, right in zip(items, p, q):
            _native.orthonormalize(left)
            _native.low_rank_back_project(item.value, left, right)
        comm.all_reduce(packed_q, op="avg", timeout=timeout, **how)
        for item, left, right in zip(items, p, q):
            _native.low_rank_restore(left, right, item.value, item.out)
            self._steps[item.name] = self._steps.get(item.name, 0) + 1
            self._q[item.name] = right.copy()

    def state_dict(self, rank: int = 0, size: int = 1) -> dict[str, Any]:
        """Factors (see `warm_state`), `world_size`, and this rank's residuals under `rankR/NAME`. Merge the
        dicts of all ranks to load them on another number of ranks."""
        return {**self.warm_state(), **self._feedback.state_dict(rank, size)}

    def load_state_dict(self, state: Mapping[str, Any], rank: int = 0, size: int = 1) -> None:
        """Saved rank r's residual goes to rank r % size, times size / saved size, so that what is owed to the
        average is conserved."""
        self.load_warm_state(state)
        for key, value in state.items():
            if re.match(r"rank\d+/", key):
                self._feedback.declare(key.partition("/")[2], np.size(value))
        self._feedback.load_state_dict(state, rank, size, op="avg")

    def warm_state(self, rank: int = 0) -> dict[str, Any]:
        """What the next step begins with, equal on every rank: `q/NAME` [rank, cols], `steps/NAME`."""
        state: dict[str, Any] = {f"q/{name}": q.copy() for name, q in self._q.items()}
        return state | {f"steps/{name}": n for name, n in self._steps.items()}

    def load_warm_state(self, state: Mapping[str, Any], rank: int = 0) -> None:
        """Takes `q/...` and `steps/...` from what `warm_state` or `state_dict` returned."""
        self._q = {k[2:]: np.array(v, np.float32) for k, v in state.items() if k.startswith("q/")}
        self._steps = {k[6:]: int(v) for k, v in state.items() if k.startswith("steps/")}

    # -- where a step begins ---------------------------------------------------------------------------------

    def _width(self, item: Item) -> int:
        rows, cols = item.value.shape
        return min(self.rank, int(rows), int(cols))

    def _start(self, item: Item) -> Floats:
        """Last step's Q. A column that is 0 would stay so for ever, and one that is not finite poison every
        later step: such a column begins anew. Equal on every rank, as Q is."""
        shape = (self._width(item), item.value.shape[1])
        steps = self._steps.get(item.name, 0)
        q = self._q.get(item.name) if self.warm_start else None
        if q is None or q.shape != shape:
            return self._random(item.name, shape, steps)
        dead = ~np.isfinite(q).all(axis=1) | ~q.any(axis=1)
        if dead.any():
            q = q.copy()
            q[dead] = self._random(item.name, shape, steps)[dead]
        return q

    def _random(self, name: str, shape: tuple[int, int], step: int) -> Floats:
        """Uniform in [-1, 1) by splitmix64 of (seed, name, step, place): the same on every machine and
        NumPy."""
        with np.errstate(over="ignore"):
            key = np.uint64(zlib.crc32(f"{self.seed}/{name}/{step}".encode())) << np.uint64(32)
            z = (key + np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            top = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float32)  # 24 bits: exact
        return (top * np.float32(2.0**-23) - np.float32(1)).reshape(shape)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """[n, a, b, c] counts as [n, a * b * c]."""
    return int(shape[0]), int(np.prod(shape[1:], dtype=np.int64))


def _packed(shapes: Sequence[tuple[int, int]]) -> tuple[list[Floats], Floats]:
    """Arrays of these shapes that lie one behind the other, and all of them as one."""
    flat = np.empty(sum(a * b for a, b in shapes), np.float32)
    parts, at = [], 0
    for a, b in shapes:
        parts.append(flat[at : at + a * b].reshape(a, b))
        at += a * b
    return parts, flat


def _numpy_view(name: str, array: Any) -> Floats:
    x = np.asarray(array)
    if x.dtype != np.float32 or not x.flags.c_contiguous or not x.flags.writeable:
        raise ArgumentError(f"powersgd: {name!r} must be a contiguous, writable float32 array, got {x.dtype}")
    return x
