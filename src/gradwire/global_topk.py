"""Sparse all-reduce of the k largest values of a whole array, which stays sparse from end to end.

Each rank picks its k largest of value + residual. The places are cut into one region a rank; a region's owner
adds up what all ranks picked there, in rank order, keeps its share of the k largest sums, and sends those to
everybody. What a rank did not pick stays in its residual, and what an owner did not keep goes into the
owner's: so the sums stay as sparse as the inputs, and sum of residuals = exact sum - result, as for every
codec (Li, Hoefler: Near-Optimal Sparse Allreduce for Distributed Deep Learning, PPoPP 2022, without its loss
of what owners drop).

Above a density at which that costs more than sending everything, all ranks send everything.

Of an array on a GPU, value and residual stay there: what is picked comes to the host, which sends it, and the
places that change go back. The bytes are those of an array in host memory, so ranks may have either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradwire import _native, arrays
from gradwire._native import Codec
from gradwire.errors import ArgumentError, FrameError
from gradwire.feedback import ErrorFeedback
from gradwire.spec import arguments, boolean

__all__ = ["GlobalTopK"]

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
# Kept share from which a plain all-reduce is the faster one, for links of about 1 Gbit/s. Measured: 2 ranks,
# shared memory, 1.6 M elements, AVX-512: 14 ms at a share of 0.01, 30 at 0.05, 41 at 0.1, against 6.5 ms for
# a plain one, which is faster at any share where no link is slow. Modelled from it: at 1 Gbit/s plain takes
# 52 ms and a share of 0.1 takes 41 + 3; they meet near 0.12. Slower links allow more.
CROSSOVER = 0.1
# Above so many ranks regions hold equally many picked places, up to it equally many elements.
EQUAL_REGIONS = 8


@dataclass
class GlobalTopK:
    """All-reduce of the `ratio` largest values of an array.

    ratio: kept share of the elements, of each rank's and of the result. values: how they travel, "fp32",
    "bf16" or "int8". reuse_threshold: pick by the last step's threshold, corrected so that the number picked
    stays near ratio * elements (one read of the array in place of a search); else exactly that many.
    crossover: share from which the array goes dense; the ranks compare the numbers that all of them picked,
    so they decide alike. Raises ArgumentError for a ratio that is not above 0 and at most 1, or other values.

    One object holds the state of one model: use one instance per rank and model.

    >>> import gradwire, numpy as np
    >>> def rank(comm):
    ...     x = np.zeros(1000, np.float32)
    ...     x[[7, 500]] = 3, -1 - comm.rank
    ...     return gradwire.GlobalTopK(ratio=0.002).all_reduce(comm, x, op="sum")[[7, 500]]
    >>> gradwire.testing.run_ranks(2, rank)[1]
    array([ 6., -3.], dtype=float32)
    """

    ratio: float = 0.01
    values: str = "bf16"
    reuse_threshold: bool = False
    crossover: float = CROSSOVER
    error_feedback: bool = True
    _thresholds: dict[str, float] = field(default_factory=dict, repr=False, compare=False)
    _feedback: ErrorFeedback = field(default_factory=ErrorFeedback, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ArgumentError(f"global_topk: ratio must be above 0 and at most 1, got {self.ratio}")
        if self.values not in ("fp32", "bf16", "int8"):
            raise ArgumentError(f'global_topk: values must be "fp32", "bf16" or "int8", got {self.values!r}')
        self._codec = Codec("identity" if self.values == "fp32" else self.values)

    @classmethod
    def parse(cls, spec: str) -> GlobalTopK | None:
        """From "global_topk(ratio=0.001, values=fp32)"; None if the text names something else."""
        kinds: dict[str, Any] = {"ratio": float, "values": str, "reuse_threshold": boolean}
        given = arguments(spec, "global_topk", kinds | {"crossover": float, "error_feedback": boolean})
        return None if given is None else cls(**given)

    def __str__(self) -> str:
        return f"global_topk(ratio={self.ratio:g}, values={self.values})"

    def all_reduce(
        self, comm: Any, x: Any, op: str = "avg", name: str = "", timeout: float | None = None
    ) -> Any:
        """Replace x by the sparse sum or average over the ranks of `comm`; all of them end with the same
        bits.

        x: contiguous float32 array, any shape, NumPy or torch, or of any kind on a GPU, which is waited for.
        op: "sum" or "avg". name: of the array, under which residual and threshold are kept. Returns x. Raises
        what `Communicator.all_reduce` raises.
        """
        if op not in ("sum", "avg"):
            raise ArgumentError(f'global_topk: op must be "sum" or "avg", got {op!r}')
        out = _flat(x)
        self._feedback.declare(name, arrays.count_and_dtype(out)[0])
        with self._feedback.borrow(name, like=out) as owed:
            if not self.error_feedback:
                arrays.clear(owed)
            if arrays.on_gpu(out):
                _native.gpu.load(out, owed, add=True)
            else:
                np.add(owed, out, out=owed)
            self.reduce(comm, owed, out, op, name=name, timeout=timeout)
        return x

    def reduce(
        self,
        comm: Any,
        value: Any,
        out: Any,
        op: str = "avg",
        *,
        name: str = "",
        timeout: float | None = None,
    ) -> None:
        """One step with the caller's own residual. value: gradient + residual, becomes the loss; out:
        receives the result. Both flat float32, in host memory or on one GPU."""
        size, rank, count = comm.size, comm.rank, arrays.count_and_dtype(value)[0]
        if count == 0:
            return
        scale = np.float32(1 / size if op == "avg" else 1)
        picked, places = self._pick(value, name)
        shares = np.empty(size + 1, np.int64)  # number picked, and where this rank would cut
        shares[0] = places.size
        shares[1:] = places[np.arange(size) * places.size // size] if places.size else 0
        table = comm.all_gather(shares, timeout=timeout).reshape(size, size + 1)
        if (table[:, 0] < 0).any() or (table[:, 0] > count).any() or (table[:, 1:] > count).any():
            raise FrameError("global_topk: a rank reports more places than the array has")
        if int(table[:, 0].sum()) >= self.crossover * size * count:
            arrays.copy(out, value)
            comm.all_reduce(out, op=op, timeout=timeout)
            arrays.clear(value)
            return
        cuts = self._cuts(table, size, count)
        with np.errstate(all="ignore"):  # NaN and Inf travel; they are no reason to warn
            length = int(cuts[rank + 1] - cuts[rank])
            frames = self._to_owners(comm, (picked, places), cuts, value, timeout)
            union, sums, kept = self._owned(frames, length, round(self.ratio * count / size))
            places = union[kept]
            frame, decoded = self._encode(sums[kept] * scale, places, length)
            # what rounding and coding lost of the result weighs as much as in the sum
            sums[kept] -= decoded * np.float32(1 if op == "sum" else size)
            arrays.put(value, cuts[rank] + union, _finite(sums), add=True)
            if not np.isfinite(picked).all():
                _zero_what_is_not_finite(value)  # there may be more of them than were picked
            self._spread(comm, (frame, places.size), cuts, out, timeout)

    def _to_owners(
        self, comm: Any, pick: tuple[Floats, Places], cuts: Places, value: Any, timeout: float | None
    ) -> list[tuple[Any, Floats]]:
        """Sends what was picked; `value` keeps what that lost. Returns what came for this rank's region."""
        picked, places = pick
        edges = np.searchsorted(places, cuts)
        frames, lost = [], np.empty(places.size, np.float32)
        for r, (a, b) in enumerate(zip(edges, edges[1:])):
            frame, decoded = self._encode(picked[a:b], places[a:b] - cuts[r], int(cuts[r + 1] - cuts[r]))
            lost[a:b] = _finite(picked[a:b] - decoded)
            frames.append(frame)
        arrays.put(value, places, lost)
        length = int(cuts[comm.rank + 1] - cuts[comm.rank])
        theirs = comm.all_to_all(np.ascontiguousarray(np.diff(edges), np.int64), timeout=timeout)
        if (theirs < 0).any() or (theirs > length).any():
            raise FrameError("global_topk: a rank announces more places than a region has")
        got = [np.empty(self._bytes(int(n), length), np.uint8) for n in theirs]
        got[comm.rank] = frames[comm.rank]
        self._post(comm, frames, got, timeout)
        return [self._decode(frame, int(n), length) for frame, n in zip(got, theirs)]

    @staticmethod
    def _owned(frames: list[tuple[Any, Floats]], length: int, most: int) -> tuple[Any, Floats, Any]:
        """Places that were picked, their sums, and which of those this owner keeps: at most `most`."""
        total, touched = np.zeros(length, np.float32), np.zeros(length, bool)
        for at, values in frames:  # in rank order: the same bits whatever came first
            total[at] += values
            touched[at] = True
        union = np.flatnonzero(touched)
        sums, most = total[union], max(1, most)
        if union.size <= most:
            return union, sums, np.arange(union.size)
        order = np.empty(most, np.int64)
        _native.topk(sums, most, np.empty(most, np.float32), order)
        return union, sums, order

    # -- state -----------------------------------------------------------------------------------------------

    def state_dict(self, rank: int = 0, size: int = 1) -> dict[str, Any]:
        """This rank's residuals and thresholds. Merge the dicts of all ranks to load them on another number
        of ranks."""
        return {**self._feedback.state_dict(rank, size), **self.warm_state(rank)}

    def load_state_dict(self, state: Mapping[str, Any], rank: int = 0, size: int = 1) -> None:
        """Saved rank r's residual goes to rank r % size, times size / saved size, so that what is owed to the
        average is conserved."""
        self.load_warm_state(state, rank)
        for key, value in state.items():
            if re.match(r"rank\d+/", key):
                self._feedback.declare(key.partition("/")[2], np.size(value))
        self._feedback.load_state_dict(state, rank, size, op="avg")

    def warm_state(self, rank: int = 0) -> dict[str, Any]:
        """What the next step begins with: `threshold/RANK/NAME`."""
        return {f"threshold/{rank}/{name}": np.array([t], np.float32) for name, t in self._thresholds.items()}

    def load_warm_state(self, state: Mapping[str, Any], rank: int = 0) -> None:
        """A rank that finds no threshold of its own searches anew."""
        mine = f"threshold/{rank}/"
        found = {k[len(mine) :]: v for k, v in state.items() if k.startswith(mine)}
        self._thresholds = {name: float(np.ravel(v)[0]) for name, v in found.items()}

    # -- picking ---------------------------------------------------------------------------------------------

    def _pick(self, value: Any, name: str) -> tuple[Floats, Places]:
        k = max(1, round(self.ratio * arrays.count_and_dtype(value)[0]))
        threshold = self._thresholds.get(name, 0.0) if self.reuse_threshold else 0.0
        if threshold > 0:
            found, values, places = _select(value, 2 * k, threshold)
            if k // 2 <= found <= 2 * k and found:
                # The number above a threshold t falls about as t^-4 to t^-8 where it matters: a small power
                # of the excess corrects it without overshooting.
                self._thresholds[name] = float(np.float32(threshold * (found / k) ** 0.2))
                return values[:found], places[:found]
        _, values, places = _select(value, k)
        least = float(np.abs(values).min())
        self._thresholds[name] = least if math.isfinite(least) else 0.0
        return values, places

    # -- regions ---------------------------------------------------------------------------------------------

    @staticmethod
    def _cuts(table: npt.NDArray[np.int64], size: int, count: int) -> Places:
        """size + 1 places: region r is [cuts[r], cuts[r + 1]). Integers only: every rank finds the same."""
        if size <= EQUAL_REGIONS:
            return np.arange(size + 1, dtype=np.int64) * count // size
        cuts = np.empty(size + 1, np.int64)
        cuts[:size] = np.maximum.accumulate(np.clip(table[:, 1:].sum(axis=0) // size, 0, count))
        cuts[0], cuts[size] = 0, count
        return cuts

    # -- messages --------------------------------------------------------------------------------------------

    def _bytes(self, n: int, length: int) -> int:
        return _native.packed_index_bytes(n, length) + self._codec.encoded_bytes(n)

    def _encode(self, values: Floats, places: Any, length: int) -> tuple[npt.NDArray[np.uint8], Floats]:
        """A message of places below `length` and their values; and those values as they arrive."""
        index_bytes = _native.packed_index_bytes(values.size, length)
        frame = np.empty(self._bytes(values.size, length), np.uint8)
        _native.pack_indices(np.ascontiguousarray(places, np.int32), length, frame[:index_bytes])
        _native.quantize(np.ascontiguousarray(values), self._codec, frame[index_bytes:])
        decoded = np.empty(values.size, np.float32)
        _native.dequantize(frame[index_bytes:], self._codec, decoded)
        return frame, decoded

    def _decode(self, frame: npt.NDArray[np.uint8], n: int, length: int) -> tuple[Any, Floats]:
        index_bytes = _native.packed_index_bytes(n, length)
        places, values = np.empty(n, np.int32), np.empty(n, np.float32)
        _native.unpack_indices(frame[:index_bytes], length, places)
        _native.dequantize(frame[index_bytes:], self._codec, values)
        return places, values

    def _spread(
        self, comm: Any, mine: tuple[Any, int], cuts: Places, out: Any, timeout: float | None
    ) -> None:
        """Every owner's frame to everybody, and into `out`."""
        size, rank = comm.size, comm.rank
        frame, n = mine
        numbers = comm.all_gather(np.array([n], np.int64), timeout=timeout).reshape(-1)
        lengths = np.diff(cuts)
        if (numbers < 0).any() or (numbers > lengths).any():
            raise FrameError("global_topk: an owner announces more places than its region has")
        got = [np.empty(self._bytes(int(m), int(length)), np.uint8) for m, length in zip(numbers, lengths)]
        got[rank] = frame
        self._post(comm, [frame] * size, got, timeout)
        parts = [self._decode(part, int(n), int(length)) for part, n, length in zip(got, numbers, lengths)]
        arrays.clear(out)
        everywhere = np.concatenate([cut + places for cut, (places, _) in zip(cuts, parts)])
        arrays.put(out, everywhere, np.concatenate([values for _, values in parts]))

    @staticmethod
    def _post(comm: Any, frames: list[Any], got: list[Any], timeout: float | None) -> None:
        works = []
        for step in range(1, comm.size):  # each rank begins with another peer
            to, source = (comm.rank + step) % comm.size, (comm.rank - step) % comm.size
            works.append(comm.recv(got[source], source, async_op=True, timeout=timeout))
            works.append(comm.send(frames[to], to, async_op=True, timeout=timeout))
        for work in works:
            work.wait()


def _flat(x: Any) -> Any:
    """x itself on a GPU, where the kernels take any shape."""
    if arrays.on_gpu(x):
        dtype = arrays.count_and_dtype(x)[1]
        if dtype != "float32":
            raise ArgumentError(f"global_topk: x must be float32, got {dtype}")
        return x
    flat = np.asarray(x)
    if flat.dtype != np.float32 or not flat.flags.c_contiguous or not flat.flags.writeable:
        raise ArgumentError(f"global_topk: x must be contiguous, writable float32, got {flat.dtype}")
    return flat.reshape(-1)


def _select(value: Any, room: int, threshold: float = 0.0) -> tuple[int, Floats, Places]:
    """The `room` largest, or those that reach a threshold, of which there may be more or fewer: how many
    there are, values and places."""
    values, places = np.empty(room, np.float32), np.empty(room, np.int64)
    if not arrays.on_gpu(value):
        if threshold > 0:
            return _native.select_at_least(value, threshold, values, places), values, places
        _native.topk(value, room, values, places)
        return room, values, places
    count, found = arrays.count_and_dtype(value)[0], room
    there = arrays.empty(value, room, "float32"), arrays.empty(value, room, "int64")
    scratch = arrays.empty(value, _native.gpu.topk_bytes(count, room), "uint8")
    if threshold > 0:
        found = _native.gpu.select_at_least(value, threshold, *there, scratch)
    else:
        _native.gpu.topk(value, room, *there, scratch)
    arrays.copy(values, there[0])
    arrays.copy(places, there[1])
    return found, values, places


def _zero_what_is_not_finite(value: Any) -> None:
    """What is not finite becomes 0."""
    here = np.empty(arrays.count_and_dtype(value)[0], np.float32) if arrays.on_gpu(value) else value
    if here is not value:
        arrays.copy(here, value)
    here[~np.isfinite(here)] = 0
    if here is not value:
        arrays.copy(value, here)


def _finite(x: Floats) -> Floats:
    """NaN and Inf never enter a residual."""
    return np.where(np.isfinite(x), x, np.float32(0))
