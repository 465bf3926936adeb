"""Measuring links, this machine's kernels and whole collectives: what a `Topology` is made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from gradwire import _native, trials
from gradwire.codecs import Codec, as_codec
from gradwire.topology import Topology


class Ranks(Protocol):
    """What measuring needs of a communicator."""

    _native: _native.Communicator
    rank: int
    size: int

    def barrier(self) -> Any: ...
    def all_reduce(self, x: Any, op: str, codec: Codec | None, algorithm: str) -> Any: ...
    def broadcast(self, x: Any, root: int) -> Any: ...
    def split(self, color: int) -> Any: ...


# Measured for "auto" and for codec="auto"; others are priced like int8 until they are asked for.
RATED = ("bf16", "fp16", "int8", "int4", "topk")
_COUNT = 1 << 18  # 1 MiB of float32: in cache, as the pieces of a collective are


def tournament(size: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds of disjoint pairs in which everybody meets everybody once (the circle method)."""
    players: list[int] = [*range(size), *([-1] if size % 2 else [])]
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = [(players[i], players[-1 - i]) for i in range(half)]
        yield [(min(p), max(p)) for p in pairs if -1 not in p]
        players = [players[0], players[-1], *players[1:-1]]


def probe(
    comm: Ranks, progress: Callable[[int, int], None] | None = None, collectives: bool = True
) -> Topology:
    """Every rank calls it. progress: called with (steps done, steps in all). collectives: try them, too."""
    native, size, rank = comm._native, comm.size, comm.rank
    places, peers = native.places(), native.peers()
    times = np.zeros((3, size, size))
    rounds = list(_one_at_a_time(size, places))
    collectives = collectives and size > 1
    steps, done = len(rounds) + (trials.steps() if collectives else 0), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps)

    for pairs in rounds:
        for a, b in pairs:
            for source, target in ((a, b), (b, a)):
                if rank in (a, b):
                    measured = native.measure_link(target if rank == source else source, rank == source)
                    if rank == source:
                        times[:, source, target] = measured
        comm.barrier()
        step()
    comm.all_reduce(times, "sum", None, "direct")
    rates = np.array([_reduce_rate(), *(r for name in RATED for r in _codec_rates(name))])
    comm.all_reduce(rates, "max", None, "direct")  # the slowest machine decides
    cores = np.array([len(os.sched_getaffinity(0))], np.int64)
    comm.all_reduce(cores, "min", None, "direct")
    codecs = {
        repr(as_codec(name)): (float(rates[1 + 2 * i]), float(rates[2 + 2 * i]))
        for i, name in enumerate(RATED)
    }
    found = Topology(
        hosts=_host_names(comm, [host for _, host in peers]),
        host=[h for h, _ in places],
        machine=[m for _, m in places],
        cores=int(cores[0]),
        latency_s=times[0].tolist(),
        message_s=times[1].tolist(),
        byte_s=times[2].tolist(),
        reduce_s=float(rates[0]),
        codecs=codecs,
    )
    if collectives:
        found.trials = _try(comm, found, step)
    return found


def _try(comm: Ranks, links: Topology, step: Callable[[], None]) -> list[trials.Trial]:
    """On connections of its own: the caller's communicator goes on by what it knew."""
    group = comm.split(0)
    try:
        links.apply(group._native)
        return trials.run(group, step)
    finally:
        comm.barrier()  # nobody leaves while another still waits for it
        group.close()


def _one_at_a_time(size: int, places: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The tournament's rounds, cut so that no machine is in two pairs at once: they would share its cores."""
    for pairs in tournament(size):
        left = pairs
        while left:
            busy: set[int] = set()
            now: list[tuple[int, int]] = []
            later: list[tuple[int, int]] = []
            for pair in left:
                machines = {places[r][1] for r in pair}
                (later if machines & busy else now).append(pair)
                if not machines & busy:
                    busy |= machines
            yield now
            left = later


def _host_names(comm: Ranks, names: list[str]) -> list[str]:
    """Rank 0's view, so that the file is the same everywhere."""
    text = np.zeros(64 * comm.size, np.uint8)
    packed = b"".join(name.encode()[:63].ljust(64, b"\0") for name in names)
    text[:] = np.frombuffer(packed, np.uint8)
    comm.broadcast(text, root=0)
    return [
        bytes(text[64 * r : 64 * r + 64]).rstrip(b"\0").decode(errors="replace") for r in range(comm.size)
    ]


def _fastest(call: Callable[[], object], nbytes: int) -> float:
    """Seconds a byte: the best of a few, because what interrupts is not what is measured."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best / nbytes


def _reduce_rate() -> float:
    x, y = np.ones(_COUNT, np.float32), np.ones(_COUNT, np.float32)
    return _fastest(lambda: np.add(x, y, out=y), x.nbytes)


def _codec_rates(name: str) -> tuple[float, float]:
    codec = as_codec(name)
    assert codec is not None
    x = np.random.default_rng(0).standard_normal(_COUNT).astype(np.float32)
    frame = _native.encode(x, codec)
    return (
        _fastest(lambda: _native.encode(x, codec, out=frame), x.nbytes),
        _fastest(lambda: _native.decode_add(frame, x), x.nbytes),
    )
