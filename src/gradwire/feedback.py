"""Error feedback: what lossy encodings dropped is kept per parameter and added to the next step.

A communicator's `residual=` array takes both of a rank's losses: those of the values it sends as a worker,
and those of the chunks it owns and encodes for everybody. So one residual a parameter is all there is to
keep, and the sum of all ranks' residuals is what the results so far lack of the exact sums (Karimireddy et
al. 2019, arXiv:1901.09847; the owner's side as in 1-bit Adam, arXiv:2102.02888).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from gradwire import _native, arrays
from gradwire._native import Codec
from gradwire.errors import ArgumentError

__all__ = ["ErrorFeedback", "Loan"]

Floats = npt.NDArray[np.float32]  # of a user; what is kept may also be an array on a GPU
Parts = tuple[Union[str, int], ...]  # names, and gaps of so many elements
_KEY = re.compile(r"rank(\d+)/(.+)", re.DOTALL)
# How a residual rests between two steps, by the name of the option. Coding again what was decoded gives the
# same bytes in both codecs, so a checkpoint and a regrouping lose nothing more.
_AT_REST = {"fp32": None, "bf16": "bf16", "int8": "int8(block=64)"}


def pay(x: Any, residual: Any) -> None:
    """Adds a residual to values that travel as they are; what 16 bits cannot hold of it stays owed. Both
    are arrays, or both are tensors."""
    wanted = residual.reshape(x.shape) + x
    x[...] = wanted
    residual[...] = (wanted - x).reshape(residual.shape)


class Loan:
    """A residual in use: `array` is float32, all of `parts` in their order. Give it back once the operation
    that wrote it is done.
    """

    __slots__ = ("_owner", "array", "parts")

    def __init__(self, owner: ErrorFeedback, parts: Parts, array: Any) -> None:
        self._owner: ErrorFeedback | None = owner
        self.parts, self.array = parts, array

    def give_back(self) -> None:
        """Idempotent."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner._take_back(self)


class ErrorFeedback:
    """Residuals of one rank, by parameter name, each where it was used last: in host memory, or on a GPU.

    storage: how they rest between steps: "fp32" (4 bytes an element; operations work on it in place), "bf16"
    (2 bytes) or "int8" (1.03 bytes, blocks of 64 with a scale; enough for codecs of 4 bits and more). The
    latter two also need 4 bytes an element while a residual is lent out.
    Raises ArgumentError for another storage. Different names may be used by different threads.

    >>> import gradwire, numpy as np
    >>> feedback = gradwire.ErrorFeedback(storage="int8")
    >>> feedback.declare("weight", 1000)
    >>> gradient = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    >>> with feedback.borrow("weight") as residual:  # what the last step lost: added, then replaced
    ...     frame = gradwire.encode(gradient, "int4", residual)
    >>> bool(0 < feedback.norm() < 0.2 * np.linalg.norm(gradient))
    True

    For a collective: `with feedback.borrow(name, like=x) as r: comm.all_reduce(x, codec="int4", residual=r)`.
    On a GPU all is put on the current stream of torch or CuPy; a checkpoint is the same, wherever residuals
    lie.
    """

    def __init__(self, storage: str = "fp32") -> None:
        if storage not in _AT_REST:
            raise ArgumentError(f"storage of residuals must be one of {', '.join(_AT_REST)}, got {storage!r}")
        self.storage = storage
        spec = _AT_REST[storage]
        name, _, block = (spec or "").partition("(block=")
        self._codec = Codec(name, block=int(block.rstrip(")") or 0)) if spec else None
        self._counts: dict[str, int] = {}
        # fp32: a slice of some group's array. Else the coded bytes. A name without one has lost nothing yet.
        self._slots: dict[str, Any] = {}
        self._groups: dict[tuple[Any, Parts], Any] = {}  # by place
        self._lent: set[str] = set()
        self._free: dict[tuple[Any, int], list[Any]] = {}  # scratch of coded residuals, by place and size

    def declare(self, name: str, count: int) -> None:
        """A parameter of `count` elements. Takes no memory until it is used. ArgumentError if it is known
        with another count.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback()
        >>> feedback.declare("bias", 10)
        >>> feedback.names()
        ['bias']
        """
        known = self._counts.setdefault(name, count)
        if known != count:
            raise ArgumentError(f"residual {name!r} has {known} elements, now declared with {count}")

    def names(self) -> list[str]:
        """Everything declared, in that order."""
        return list(self._counts)

    def lend(self, *parts: str | int, like: Any = None) -> Loan:
        """The residuals of several parameters as one flat array, such as a bucket's.

        parts: names, and numbers: so many elements that have no residual. They are zero in every loan, and
        what is left in them is dropped. like: an array of the GPU that the loan is for, CuPy, torch or any
        other with `__cuda_array_interface__`: the residuals move there and stay. None, or an array in host
        memory: NumPy. ArgumentError for a name that was not declared or is lent out already, GpuError as any
        operation on a GPU.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback()
        >>> feedback.declare("a", 2), feedback.declare("b", 3)
        (None, None)
        >>> loan = feedback.lend("a", 10, "b")
        >>> loan.array.shape
        (15,)
        >>> loan.give_back()
        """
        names = [part for part in parts if isinstance(part, str)]
        for name in names:
            self._count(name)
            if name in self._lent:
                raise ArgumentError(f"residual {name!r} is in use by another operation: give it back first")
        array = (
            self._in_place(parts, like) if self._codec is None else self._decoded(parts, self._codec, like)
        )
        self._lent.update(names)
        return Loan(self, parts, array)

    @contextmanager
    def borrow(self, *parts: str | int, like: Any = None) -> Iterator[Any]:
        """`lend` for one block of code; what the block leaves in the array is kept, also if it raises.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback("bf16")
        >>> feedback.declare("a", 2)
        >>> with feedback.borrow("a") as residual:
        ...     residual[:] = [1, 2]
        >>> feedback.read("a")
        array([1., 2.], dtype=float32)
        """
        loan = self.lend(*parts, like=like)
        try:
            yield loan.array
        finally:
            loan.give_back()

    def read(self, name: str) -> Floats:
        """A copy in host memory, float32[count]; zeros for what was never used.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback()
        >>> feedback.declare("a", 2)
        >>> feedback.read("a")
        array([0., 0.], dtype=float32)
        """
        out = np.zeros(self._count(name), np.float32)
        if name not in self._slots:
            return out
        if self._codec is None:
            arrays.copy(out, self._slots[name])
        else:
            _native.dequantize(self._moved(name, None), self._codec, out)
        return out

    def write(self, name: str, value: Any) -> None:
        """Replace a residual, where it lies: `value`, in host memory, has its count of elements, any shape.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback()
        >>> feedback.declare("a", 2)
        >>> feedback.write("a", [3, 4])
        >>> feedback.norm()
        5.0
        """
        flat = np.ascontiguousarray(np.asarray(value, np.float32)).reshape(-1)
        if flat.size != self._count(name):
            raise ArgumentError(f"residual {name!r} has {self._count(name)} elements, got {flat.size}")
        if self._codec is not None:
            coded = np.empty(self._codec.encoded_bytes(flat.size), np.uint8)
            _native.quantize(flat, self._codec, coded)
            arrays.copy(self._slots.setdefault(name, coded), coded)
            return
        if name not in self._slots:
            self._in_place((name,), None)
        arrays.copy(self._slots[name], flat)

    def norm(self) -> float:
        """L2 norm over everything held.

        >>> import gradwire
        >>> gradwire.ErrorFeedback().norm()
        0.0
        """
        return math.sqrt(sum(arrays.square_sum(self._floats(name)) for name in self._slots))

    def nbytes(self) -> int:
        """Bytes that the residuals take at rest.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback("int8")
        >>> feedback.declare("a", 6400)
        >>> feedback.write("a", range(6400))
        >>> feedback.nbytes()
        6600
        """
        return sum(arrays.nbytes(slot) for slot in self._slots.values())

    # -- checkpoints -----------------------------------------------------------------------------------------
    def state_dict(self, rank: int = 0, size: int = 1) -> dict[str, Any]:
        """`world_size`, and a float32 copy of every declared residual under "rank{rank}/{name}": each rank's
        are its own, so a checkpoint is the union of all ranks' dicts.

        >>> import gradwire
        >>> feedback = gradwire.ErrorFeedback()
        >>> feedback.declare("a", 1)
        >>> feedback.state_dict(rank=1, size=2)
        {'world_size': 2, 'rank1/a': array([0.], dtype=float32)}
        """
        return {"world_size": size, **{f"rank{rank}/{name}": self.read(name) for name in self._counts}}

    def load_state_dict(
        self, state: Mapping[str, Any], rank: int = 0, size: int = 1, op: str = "sum"
    ) -> None:
        """From the dict of as many ranks, or the union of the dicts of another number of ranks.

        Old rank r's residual goes to new rank r % size, so the sum over the ranks is conserved. op: "sum", or
        "avg" if the residuals are added to averages: it is then sum / size that is conserved. ArgumentError,
        with nothing changed, if a declared residual is missing or has another count.

        >>> import gradwire
        >>> old = gradwire.ErrorFeedback()
        >>> old.declare("a", 1)
        >>> state = {}
        >>> for rank in range(3):
        ...     old.write("a", [10 + rank])
        ...     state.update(old.state_dict(rank, size=3))
        >>> new = gradwire.ErrorFeedback()
        >>> new.declare("a", 1)
        >>> new.load_state_dict(state, rank=0, size=1)
        >>> new.read("a")
        array([33.], dtype=float32)
        """
        if op not in ("sum", "avg"):
            raise ArgumentError(f'op must be "sum" or "avg", got {op!r}')
        saved = int(state["world_size"])
        weight = np.float32(size / saved if op == "avg" else 1.0)
        sums = {name: np.zeros(count, np.float32) for name, count in self._counts.items()}
        for old in range(rank, saved, size):
            for name, total in sums.items():
                total[:] += self._saved(state, f"rank{old}/{name}", total.size, saved, size) * weight
        for name, total in sums.items():
            self.write(name, total)

    @staticmethod
    def _saved(state: Mapping[str, Any], key: str, count: int, saved: int, size: int) -> Floats:
        value = state.get(key)
        if value is None:
            known = sorted({m[1] for m in map(_KEY.fullmatch, state) if m})
            raise ArgumentError(
                f"no residual {key!r} in the state dict of {saved} ranks, loaded on {size}: it holds ranks "
                f"{', '.join(known)}; load the merged state of all ranks, made with the same model and policy"
            )
        flat = np.asarray(value, np.float32).reshape(-1)
        if flat.size != count:
            raise ArgumentError(f"residual {key!r} has {flat.size} elements, expected {count}")
        return flat

    # -- storage ---------------------------------------------------------------------------------------------
    def _count(self, name: str) -> int:
        if name not in self._counts:
            raise ArgumentError(f"no residual {name!r}: declare(name, count) first; known: {self.names()}")
        return self._counts[name]

    def _size(self, parts: Parts) -> int:
        return sum(part if isinstance(part, int) else self._counts[part] for part in parts)

    def _slices(self, parts: Parts, flat: Any) -> Iterator[tuple[str | None, Any]]:
        """(name, its elements of flat); None for a gap."""
        begin = 0
        for part in parts:
            end = begin + (part if isinstance(part, int) else self._counts[part])
            yield (None if isinstance(part, int) else part), flat[begin:end]
            begin = end

    def _in_place(self, parts: Parts, like: Any) -> Any:
        """The group's own memory: made once per grouping and place, then it *is* the residuals, and nothing
        is copied."""
        key = (arrays.place(like), parts)
        flat = self._groups.get(key)
        if flat is None:
            flat = arrays.zeros(like, self._size(parts), "float32")
            moved = set()
            for name, part in self._slices(parts, flat):
                if name is not None:
                    if name in self._slots:
                        arrays.copy(part, self._slots[name])
                    self._slots[name] = part
                    moved.add(name)
            self._groups = {k: v for k, v in self._groups.items() if not moved.intersection(k[1])}
            self._groups[key] = flat
        return flat

    def _decoded(self, parts: Parts, codec: Codec, like: Any) -> Any:
        free = self._free.setdefault((arrays.place(like), self._size(parts)), [])
        flat = free.pop() if free else arrays.zeros(like, self._size(parts), "float32")
        for name, part in self._slices(parts, flat):
            if name is None or name not in self._slots:
                arrays.clear(part)
            else:
                self._slots[name] = self._moved(name, like)
                arrays.kernels(part).dequantize(self._slots[name], codec, part)
        return flat

    def _take_back(self, loan: Loan) -> None:
        for name, part in self._slices(loan.parts, loan.array):
            if name is None:
                arrays.clear(part)
            elif self._codec is not None:
                self._rest(name, part, self._codec)
        if self._codec is not None:
            self._free[arrays.place(loan.array), self._size(loan.parts)].append(loan.array)
        self._lent.difference_update(part for part in loan.parts if isinstance(part, str))

    def _rest(self, name: str, value: Any, codec: Codec) -> None:
        there = name in self._slots and arrays.place(self._slots[name]) == arrays.place(value)
        if not there:
            self._slots[name] = arrays.zeros(value, codec.encoded_bytes(self._counts[name]), "uint8")
        arrays.kernels(value).quantize(value, codec, self._slots[name])

    def _moved(self, name: str, like: Any) -> Any:
        """What is kept of a parameter, there where `like` is."""
        slot = self._slots[name]
        if arrays.place(slot) == arrays.place(like):
            return slot
        count, dtype = arrays.count_and_dtype(slot)
        made = arrays.zeros(like, count, dtype)
        arrays.copy(made, slot)
        return made

    def _floats(self, name: str) -> Any:
        slot = self._slots[name]
        if self._codec is None:
            return slot
        value = arrays.zeros(slot, self._counts[name], "float32")
        arrays.kernels(slot).dequantize(slot, self._codec, value)
        return value
