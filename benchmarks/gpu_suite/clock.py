"""Times what runs on a GPU: graphs of many calls between two events, interleaved, while the budget lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gradwire.bench.report import Progress, median, spread

Call = Callable[[], object]
Measure = Callable[[], float]  # seconds of one call

REPLAY_S = 2e-3  # of calls in one measurement: long beside an event's resolution of half a microsecond
ROUNDS = (3, 25)  # a spread needs three; more than 25 tell nothing new


class Clock(Protocol):
    simulated: bool

    def prepare(self, call: Call, graph: bool) -> tuple[str, Measure]:
        """How it is timed ("graph", "events" or "host"), and what measures one call once."""
        ...


class Cuda:
    """Events of the current torch stream. `graph`: of calls captured once, without what launching costs."""

    simulated = False

    def prepare(self, call: Call, graph: bool) -> tuple[str, Measure]:
        import torch

        torch.cuda.synchronize()  # the arrays may still be under way on the default stream
        stream = torch.cuda.Stream()  # a capture must not be on the default stream, nor may the warm-up
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
            once = self._between(call)
        calls = max(1, min(100, int(REPLAY_S / max(once, 1e-6))))

        def many() -> None:
            for _ in range(calls):
                call()

        run: Call = many
        if graph:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded, stream=stream):
                many()
            run = recorded.replay

        def measure() -> float:
            with torch.cuda.stream(stream):
                return self._between(run) / calls

        return ("graph" if graph else "events"), measure

    def _between(self, call: Call) -> float:
        import torch

        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


class Simulated:
    """The host's clock around a call and a wait. It shows that the suite runs; its times mean nothing."""

    simulated = True

    def __init__(self, wait: Call) -> None:
        self._wait = wait

    def prepare(self, call: Call, graph: bool) -> tuple[str, Measure]:
        def measure() -> float:
            begin = time.perf_counter()
            call()
            self._wait()
            return time.perf_counter() - begin

        return "host", measure


@dataclass
class Entry:
    """One thing to time. bytes: what it has to read and write in device memory. graph: can be captured."""

    what: dict[str, Any]  # the row's first columns: entry, stage, codec, ...
    call: Call
    bytes: int
    graph: bool = True
    timed: str = ""
    seconds: list[float] = field(default_factory=list)


def interleave(clock: Clock, entries: Sequence[Entry], until: float, bar: Progress) -> None:
    """Every round times every entry once, in an order that rotates; ends at `until` (time.monotonic)."""
    measures = []
    for entry in entries:
        entry.timed, measure = clock.prepare(entry.call, entry.graph)
        measures.append(measure)
    least, most = (1, 1) if clock.simulated else ROUNDS
    for turn in range(most):
        if turn >= least and time.monotonic() > until:
            break
        for i in range(len(entries)):
            at = (i + turn) % len(entries)
            entries[at].seconds.append(measures[at]())
        bar.step(f"round {turn + 1}")


def row(entry: Entry, copy: Entry) -> dict[str, Any]:
    """An entry's columns; copy: the copy that was timed in the same rounds."""
    shares = [(entry.bytes / t) / (copy.bytes / c) for t, c in zip(entry.seconds, copy.seconds)]
    return {
        **entry.what,
        "bytes": entry.bytes,
        "timed": entry.timed,
        "time_us": median(entry.seconds) * 1e6,
        "spread": spread(entry.seconds),
        "gbs": entry.bytes / median(entry.seconds) / 1e9,
        "of_copy": None if entry.timed == "host" else median(shares),
        "wrong": 0,
        "skipped": None,
        "seconds": entry.seconds,
    }


def untimed(entry: Entry) -> dict[str, Any]:
    """The columns of an entry that was wrong or could not run."""
    times = ("bytes", "timed", "time_us", "spread", "gbs", "of_copy", "seconds")
    return {**dict.fromkeys(times), "wrong": None, "skipped": None, **entry.what}
