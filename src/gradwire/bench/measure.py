"""Times the entries: interleaved round by round, behind one barrier, after their results were checked.

Each round measures every entry once at every size, so that a change in the machine's state hits all entries
alike, in an order that rotates from round to round. One measurement is a few untimed repetitions, then
`iters` timed ones. A repetition refills the array, waits at the barrier, and takes the time of a batch of
calls: the longest over the ranks, divided by the calls in the batch. The measurement is the median of its
repetitions, and the reported time the median over the rounds.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwire.bench import check
from gradwire.bench.arguments import human_size
from gradwire.bench.barrier import Barrier
from gradwire.bench.check import Question, Verdict
from gradwire.bench.entries import Entry
from gradwire.bench.report import Progress, median, spread

if TYPE_CHECKING:
    from gradwire import Communicator

# Below: calls back to back, because reading the clock would weigh; from here on one call a repetition.
_SMALL = 1 << 20
_BATCH = 20
# Sums in place grow by `size` per call. A batch ends before they overflow: training has no infinities either.
_LARGEST = {"float16": 6.5e4, "bfloat16": 3.3e38, "float32": 3.4e38, "float64": 1.7e308}
_LARGEST_NORMAL = 6.0  # of N(0, 1) at these counts


@dataclass(frozen=True)
class Plan:
    """How often to measure."""

    iters: int
    warmup: int
    rounds: int
    crowded: bool  # ranks outnumber cores
    share: list[int]  # the cores of this rank alone, for entries that ask to be bound
    batch: int = 0  # calls back to back in a repetition; 0: as many as the size asks for
    rest: float = 0.0  # seconds before a repetition


def bus_bandwidth(algbw: float, size: int) -> float:
    """nccl-tests' definition: what each link carries in a bandwidth-optimal all-reduce."""
    return algbw * 2 * (size - 1) / size


def batch(q: Question, wanted: int = 0) -> int:
    calls = wanted or (1 if q.nbytes >= _SMALL else _BATCH)
    if q.op != "sum" or q.size == 1 or q.dtype not in _LARGEST:
        return calls
    room = math.log(_LARGEST[q.dtype] / _LARGEST_NORMAL) / math.log(q.size)
    return max(1, min(calls, int(room) - 1))


class Bench:
    def __init__(
        self, comm: Communicator, entries: Sequence[Entry], questions: Sequence[Question], plan: Plan
    ) -> None:
        self._comm, self._entries, self._questions, self._plan = comm, entries, questions, plan
        self._barrier = Barrier(comm, plan.crowded)
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        self._seconds: dict[tuple[int, int], list[float]] = {}

    def steps(self) -> int:
        return len(self._entries) * len(self._questions) * (1 + self._plan.rounds)

    def run(self, progress: Progress) -> list[dict[str, Any]]:
        for i, q in enumerate(self._questions):
            for k, entry in enumerate(self._entries):
                self._verdicts[i, k] = entry.check(q)
                self._seconds[i, k] = []
                progress.step(f"check {human_size(q.nbytes)} {entry.library} {entry.codec}")
        # one pair of arrays for all: the same memory for every entry
        largest = max(self._questions, key=lambda q: q.count)
        array, source = (check.empty(largest.count, largest.dtype) for _ in range(2))
        floating = largest.dtype in _LARGEST and largest.op in ("sum", "avg")
        check.assign(source, check.normal_input(largest) if floating else check.exact_input(largest))
        everywhere = os.sched_getaffinity(0)
        gc.collect()
        gc.disable()
        try:
            for turn in range(self._plan.rounds):
                for i, q in enumerate(self._questions):
                    for k in self._order(turn):
                        os.sched_setaffinity(0, self._plan.share if self._entries[k].bound else everywhere)
                        self._measure(i, k, array[: q.count], source[: q.count])
                        progress.step(f"round {turn + 1}/{self._plan.rounds} {human_size(q.nbytes)}")
        finally:
            gc.enable()
            os.sched_setaffinity(0, everywhere)
        return [self._row(i, k) for i in range(len(self._questions)) for k in range(len(self._entries))]

    def _order(self, turn: int) -> list[int]:
        n = len(self._entries)
        return [(turn + k) % n for k in range(n)]

    def _measure(self, i: int, k: int, array: Any, source: Any) -> None:
        if self._verdicts[i, k].wrong:
            return  # the same verdict on every rank
        q = self._questions[i]
        calls = batch(q, self._plan.batch)
        call = self._entries[k].bind(array, q.op)
        times = np.zeros(self._plan.iters)
        for repetition in range(-self._plan.warmup, self._plan.iters):
            array[:] = source
            if self._plan.rest:
                time.sleep(self._plan.rest)
                self._barrier.wait()  # wakes everybody, so that the next one lets all go at once
            self._barrier.wait()
            seconds = _time(call, calls)
            if repetition >= 0:
                times[repetition] = seconds / calls
        self._comm.all_reduce(times, op="max")
        self._seconds[i, k].append(median(times.tolist()))

    def _row(self, i: int, k: int) -> dict[str, Any]:
        q, entry, verdict, seconds = (
            self._questions[i],
            self._entries[k],
            self._verdicts[i, k],
            self._seconds[i, k],
        )
        taken = median(seconds) if seconds else None
        algbw = q.nbytes / taken / 1e9 if taken else None
        predicted = entry.predicted(q)
        wire = None if verdict.wrong else self._wire_bytes(entry, q)
        return {
            "size": q.nbytes,
            "count": q.count,
            "dtype": q.dtype,
            "op": q.op,
            "library": entry.library,
            "algorithm": entry.chosen(q),
            "asked": entry.algorithm,
            "codec": entry.codec,
            "time_us": taken * 1e6 if taken else None,
            "spread": spread(seconds) if seconds else None,
            "predicted_us": predicted * 1e6 if predicted is not None else None,
            "error": predicted / taken - 1 if predicted is not None and taken else None,
            "algbw": algbw,
            "busbw": bus_bandwidth(algbw, q.size) if algbw else None,
            "wrong": verdict.wrong,
            "wire_bytes": wire,
            "ratio": 2 * (q.size - 1) / q.size * q.nbytes / wire if wire else None,
            "rel_err": verdict.rel_err,
            "seconds": seconds,
            "batch": batch(q, self._plan.batch),
        } | self._against_peers(i, seconds)

    def _against_peers(self, i: int, seconds: Sequence[float]) -> dict[str, float | None]:
        """Per peer, how many times longer it took: the median of the ratios within one round."""
        peers = [(k, e.library) for k, e in enumerate(self._entries) if e.library != "gradwire"]
        ratios = {name: [b / a for a, b in zip(seconds, self._seconds[i, k])] for k, name in peers}
        return {f"vs_{name}": median(r) if r else None for name, r in ratios.items()}

    def _wire_bytes(self, entry: Entry, q: Question) -> int | None:
        own = entry.wire_bytes(q)
        if own is None:
            return None
        most = np.array([own], np.int64)
        self._comm.all_reduce(most, op="max")
        return int(most[0])


def _time(call: Callable[[], object], calls: int) -> float:
    clock = time.perf_counter
    start = clock()
    for _ in range(calls):
        call()
    return clock() - start
