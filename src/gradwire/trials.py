"""Trying whole collectives: what every algorithm takes on these very links, with these very codecs.

A model of links and cores has the shape of the truth, not its size: caches, cores that ranks share, wake-ups
and the kernel's TCP are in no formula. So every algorithm is run at a few sizes, and predictions are the
model times what was measured over what it had said there (`correction` in schedule/select.hpp). MPI libraries
tune their tables the same way; the model lets a table of few sizes hold for all of them, and for sizes too
slow to be tried.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from gradwire import _native
from gradwire.codecs import Codec, as_codec

# From the latency to what no cache holds, in steps over which factors change little.
SIZES = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 3 << 22, 1 << 25)
CODECS = (None, "bf16", "int8", "int4")
# Over all sizes, algorithms and codecs, so that a disturbance of a second hits one measurement of each.
# Short calls on shared cores have two speeds, with a sleep in them or without, for milliseconds on end.
_ROUNDS = 9
_WORTH_S, _MOST_CALLS = 3e-3, 10  # of a round
_LONG_S = 20e-3
# Before calls so much smaller than the last: routers' queues drain, and token buckets fill again.
_MUCH_SMALLER, _REST_S = 16, 50e-3
_TOO_LONG_S = 0.15  # one call; larger arrays are extrapolated by the model
_HOPELESS, _HOPELESS_FROM_S = 3.0, 5e-3  # times the best algorithm, where that takes a while
# As `gradwire bench` does: below this size calls back to back, which may overlap.
_SMALL, _BATCH = 1 << 20, 20


class Trial(NamedTuple):
    """One all_reduce of nbytes. codec: its repr, "" for none. seconds: measured; modelled: without trials."""

    codec: str
    algorithm: str
    nbytes: int
    seconds: float
    modelled: float


class Ranks(Protocol):
    """What trying needs of a communicator."""

    _native: _native.Communicator
    rank: int
    size: int

    def barrier(self) -> Any: ...
    def all_reduce(self, x: Any, op: str, codec: Codec | None, algorithm: str) -> Any: ...


class _Way:
    """A codec and an algorithm, with all other algorithms that are the same messages for this group."""

    def __init__(self, codec: Codec | None, algorithms: list[str]) -> None:
        self.codec, self.algorithms = codec, algorithms
        self.name = repr(codec) if codec else ""
        self.factor = 1.0  # measured over modelled, at the last size


@dataclass
class _Measured:
    """A way at one size. modelled, expected, seconds: of a call."""

    way: _Way
    modelled: float
    expected: float
    seconds: list[float] = field(default_factory=list)


def steps() -> int:
    """How often `run` reports progress."""
    return len(SIZES) * _ROUNDS


def run(comm: Ranks, progress: Callable[[], None]) -> list[Trial]:
    """Every rank calls it on a communicator that goes by the links alone; the same result on every rank."""
    ways = [_Way(codec, names) for codec in map(as_codec, CODECS) for names in alike(comm, codec)]
    clock = Clock(comm, SIZES[-1])
    tried: dict[int, list[_Measured]] = {}
    with own_cores(comm):
        for turn in range(_ROUNDS):
            for nbytes in SIZES:
                if turn == 0:
                    tried[nbytes] = _worth_trying(comm, ways, nbytes)
                now = tried[nbytes]
                for k in range(len(now)):
                    m = now[(turn + k) % len(now)]
                    if turn < _rounds(m.expected):
                        m.seconds.append(clock.seconds(nbytes, m.way.codec, m.way.algorithms[0], m.expected))
                        m.expected = m.seconds[0]  # in later rounds
                        m.way.factor = m.expected / m.modelled  # at the next size
                progress()
    return [
        Trial(m.way.name, algorithm, nbytes, statistics.median(m.seconds), m.modelled)
        for nbytes, measured in tried.items()
        for m in measured
        for algorithm in m.way.algorithms
    ]


@contextmanager
def own_cores(comm: Ranks) -> Iterator[None]:
    """Keeps this thread off the cores of the machine's other ranks, if there are enough, as launchers do."""
    everywhere = sorted(os.sched_getaffinity(0))
    machines = [machine for _, machine in comm._native.places()]
    ranks = machines.count(machines[comm.rank])
    index = machines[: comm.rank].count(machines[comm.rank])
    if ranks <= len(everywhere):
        share = everywhere[index * len(everywhere) // ranks : (index + 1) * len(everywhere) // ranks]
        os.sched_setaffinity(0, share)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


def _rounds(expected: float) -> int:
    """Long calls vary less, and cost more to repeat."""
    return _ROUNDS if expected < 2e-3 else 5 if expected < _LONG_S else 3


class Clock:
    """Times all_reduces of float32 arrays up to so many bytes, as `gradwire bench` does."""

    def __init__(self, comm: Ranks, most_bytes: int) -> None:
        self._comm = comm
        self._source = np.random.default_rng(comm.rank).standard_normal(most_bytes // 4).astype(np.float32)
        self._array = self._source.copy()
        self._latest_bytes = 0

    def seconds(self, nbytes: int, codec: Codec | None, algorithm: str, expected: float) -> float:
        """Of a call: the slowest rank of each repetition, the median repetition. expected: how long it may
        take; the shorter, the more repetitions."""
        comm, array, source = self._comm, self._array[: nbytes // 4], self._source[: nbytes // 4]
        # sums in place grow by `size` a call: a batch ends before they overflow
        batch = 1 if nbytes >= _SMALL else max(1, min(_BATCH, int(84 / np.log(max(2, comm.size)))))
        repetitions = 1 + int(min(_MOST_CALLS, _WORTH_S / (expected * batch)))
        warm_up = 1 if expected < _LONG_S else 0
        times = np.zeros(repetitions)
        if nbytes < self._latest_bytes // _MUCH_SMALLER:
            time.sleep(_REST_S)
        self._latest_bytes = nbytes
        for repetition in range(-warm_up, repetitions):
            array[:] = source
            comm.barrier()
            start = time.perf_counter()
            for _ in range(batch):
                comm.all_reduce(array, "sum", codec, algorithm)
            if repetition >= 0:
                times[repetition] = (time.perf_counter() - start) / batch
        comm.all_reduce(times, "max", None, "direct")
        return float(np.median(times))


def alike(comm: Ranks, codec: Codec | None) -> list[list[str]]:
    """The algorithms that "auto" may take, those that are the same messages for this group together.

    >>> import gradwire
    >>> gradwire.testing.run_ranks(2, lambda comm: gradwire.trials.alike(comm, None)[0][:2])[0]
    ['direct', 'ring']
    """
    valid = {c.algorithm for c in comm._native.candidates(1 << 18, "float32", codec) if c.valid}
    groups: dict[str, list[str]] = {}
    for name in (a["name"] for a in _native.algorithms() if a["name"] in valid):
        schedules = [
            _native.make_schedule(name, "all_reduce", r, comm.size, -1, comm._native.topology)
            for r in range(comm.size)
        ]
        messages = repr([s.lanes for s in schedules])
        if codec is None:  # raw messages are then like any other
            messages = messages.replace("raw=True", "raw=False")
        groups.setdefault(messages, []).append(name)
    return list(groups.values())


def _worth_trying(comm: Ranks, ways: list[_Way], nbytes: int) -> list[_Measured]:
    """From numbers that all ranks have: what they skip must be the same."""
    every = []
    best: dict[str, float] = {}
    for way in ways:
        prices = {c.algorithm: c.seconds for c in comm._native.candidates(nbytes // 4, "float32", way.codec)}
        modelled = prices[way.algorithms[0]]
        every.append(_Measured(way, modelled, modelled * way.factor))
        best[way.name] = min(best.get(way.name, every[-1].expected), every[-1].expected)

    def worth(m: _Measured) -> bool:
        hopeless = m.expected > _HOPELESS * best[m.way.name] and m.expected > _HOPELESS_FROM_S
        return nbytes == SIZES[0] or (m.expected < _TOO_LONG_S and not hopeless)

    return [m for m in every if worth(m)]
