"""all_reduce of virtual ranks on one GPU: exact, equal to ranks on the CPU, and how near its floor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_suite import checks, clock, codec_speed, floors
from gpu_suite.arrays import Kind, as_bytes, cast
from gpu_suite.clock import Clock, Entry

import gradwire
from gradwire import testing
from gradwire.bench.arguments import human_size
from gradwire.bench.report import Progress

Row = dict[str, Any]
RANKS = (2, 4, 8)
CODECS = (None, "int8(block=64)")


# -- right? --------------------------------------------------------------------------------------------
def check_rows(kind: Kind, largest: int, replays: int, ranks: Sequence[int] = RANKS) -> Iterator[Row]:
    """A row per number of ranks, algorithm and codec, over dtypes and odd counts; then the replays."""
    for n in ranks:
        for algorithm in floors.ALGORITHMS:
            for codec in CODECS:
                compared = wrong = 0
                for count in (1, largest | 1):
                    for dtype in kind.dtypes if codec is None else ("float32",):
                        wrong += Question(kind, algorithm, codec, dtype).wrong(n, count)
                        compared += n
                entry = f"all_reduce of {n} virtual ranks"
                yield checks.row(entry, f"{algorithm} {codec or ''}".strip(), None, compared, wrong)
        yield replay_row(kind, n, replays)


def _inputs(n: int, count: int, codec: str | None) -> npt.NDArray[np.float32]:
    """fp32[n, count]. Without a codec small whole numbers, whose sum is exact in every order and dtype."""
    rng = np.random.default_rng(n * count)
    if codec is None:
        return rng.integers(-8, 9, (n, count)).astype(np.float32)
    return rng.standard_normal((n, count), np.float32)


@dataclass
class Question:
    kind: Kind
    algorithm: str
    codec: str | None
    dtype: str

    def wrong(self, n: int, count: int) -> int:
        """Bytes on all ranks that are not those of the exact sum, or with a codec of ranks on the CPU."""
        x = _inputs(n, count, self.codec)
        expected = (
            testing.run_ranks(n, lambda comm: self._on_cpu(comm, x[comm.rank]))[0] if self.codec else x.sum(0)
        )
        with testing.virtual_ranks(n) as ranks:
            arrays = [self.kind.put(cast(row, self.dtype), self.dtype) for row in x]
            ranks.all_reduce(arrays, "sum", self.algorithm, self.codec)
            exact = as_bytes(cast(expected, self.dtype))
            return sum(int((self.kind.get(array) != exact).sum()) for array in arrays)

    def _on_cpu(self, comm: gradwire.Communicator, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        mine = x.copy()
        comm.all_reduce(mine, op="sum", algorithm=self.algorithm, codec=self.codec)
        return mine


def replay_row(kind: Kind, n: int, replays: int, count: int = 100_003) -> Row:
    """One graph, replayed on other values each time, so that a flag left from the last one shows."""
    wrong = 0
    with testing.virtual_ranks(n) as ranks:
        arrays = [kind.put(np.zeros(count, np.float32), "float32") for _ in range(n)]
        replay = ranks.record(arrays, "sum", "direct")
        for i in range(replays):
            for rank, array in enumerate(arrays):
                kind.refill(array, np.full(count, i + rank, np.float32))
            replay()
            total = np.full(count, n * i + n * (n - 1) // 2, np.float32).view(np.uint8)
            wrong += sum(int((kind.get(array) != total).sum()) for array in arrays)
    entry = f"{replays} replays of all_reduce of {n} virtual ranks"
    return checks.row(entry, "direct", "float32", replays, wrong)


# -- fast? ---------------------------------------------------------------------------------------------
@dataclass
class Bench:
    kind: Kind
    clock: Clock
    copied: int  # bytes of the copy that the floor is computed with: more than a cache holds

    def rows(self, sizes: list[int], until: float, bar: Progress) -> Iterator[Row]:
        """A row per size (bytes of fp32 on one rank), number of ranks, algorithm and codec."""
        questions = [(size, n) for size in sizes for n in RANKS]
        for i, (size, n) in enumerate(questions):
            now = time.monotonic()
            yield from self._rows(size, n, now + (until - now) / (len(questions) - i), bar)

    def _rows(self, size: int, n: int, until: float, bar: Progress) -> Iterator[Row]:
        x = np.random.default_rng(n).standard_normal((n, size // 4), np.float32)
        entries = [codec_speed.copy(self.kind, np.zeros(self.copied // 4, np.float32))]
        arrays = [self.kind.put(row, "float32") for row in x]
        with testing.virtual_ranks(n) as ranks:
            for algorithm, name in floors.ALGORITHMS.items():
                for codec in CODECS:
                    coded = gradwire.codec(codec).encoded_bytes(size // 4) if codec else None
                    what = {
                        "part": "all_reduce",
                        "entry": f"{n} virtual ranks",
                        "stage": name,
                        "codec": codec,
                    }

                    # an average, again and again, stays where it is; a sum would overflow
                    def call(algorithm: str = algorithm, codec: str | None = codec) -> None:
                        ranks.all_reduce(arrays, "avg", algorithm, codec, wait=False)

                    bytes_moved = floors.nbytes(algorithm, n, size, coded)
                    entry = Entry({**what, "ranks": n, "size": size, "count": size // 4}, call, bytes_moved)
                    entries.append(entry)
                    bar.step(f"{n} ranks {name} {codec or ''}, {human_size(size)}")
            clock.interleave(self.clock, entries, until, bar)
            ranks.synchronize()  # raises what went wrong on the GPU
        for entry in entries[1:]:
            row = clock.row(entry, entries[0])
            yield {**row, "over_floor": 1 / row["of_copy"] if row["of_copy"] else None}
