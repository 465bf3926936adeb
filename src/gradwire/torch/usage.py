"""What the collectives of one communicator cost: calls, bytes, and the time the program waited for them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gradwire.communicator import Communicator


@dataclass
class Row:
    """One collective of one axis, on this rank.

    dense_bytes: what a ring, or the plain tensors, would have sent without codec; sent_bytes: what was sent,
    headers included. exposed_s: how long the program stood still for it; a pipeline's bubbles count, they
    look alike from here. calls of data parallelism are steps, not buckets."""

    axis: str
    ranks: int
    codec: str
    collective: str
    calls: int = 0
    dense_bytes: int = 0
    sent_bytes: int = 0
    exposed_s: float = 0.0

    @property
    def ratio(self) -> float:
        return self.dense_bytes / self.sent_bytes if self.sent_bytes else 1.0


@dataclass
class Table:
    """Rows, and how they print.

    >>> print(Table([Row("dp", 2, "int8(block=128)", "all_reduce", 3, 12_000_000, 3_000_000, 0.25)]))
    axis  ranks  codec                collective      calls  dense MB   sent MB  ratio  exposed s
    dp        2  int8(block=128)      all_reduce          3    12.000     3.000   4.00      0.250
    """

    rows: list[Row]

    def __str__(self) -> str:
        head = ("axis", "ranks", "codec", "collective", "calls", "dense MB", "sent MB", "ratio", "exposed s")
        lines = ["{:5} {:>5}  {:20} {:14} {:>6} {:>9} {:>9} {:>6} {:>10}".format(*head)]
        for r in self.rows:
            dense, sent = r.dense_bytes / 1e6, r.sent_bytes / 1e6
            lines.append(
                f"{r.axis:5} {r.ranks:5}  {r.codec:20} {r.collective:14} {r.calls:6} {dense:9.3f} "
                f"{sent:9.3f} {r.ratio:6.2f} {r.exposed_s:10.3f}"
            )
        return "\n".join(lines)


@dataclass
class Meter:
    """Counts the synchronous collectives of one axis' communicator. algorithm: what they are called with."""

    axis: str
    algorithm: str = "auto"
    calls: dict[tuple[str, str], Row] = field(default_factory=dict)  # by collective and codec


_meters: weakref.WeakKeyDictionary[Communicator, Meter] = weakref.WeakKeyDictionary()


def metered(comm: Communicator, meter: Meter) -> None:
    """From now on counts what tensor-parallel layers do on `comm`."""
    _meters[comm] = meter


@contextmanager
def counted(comm: Communicator, collective: str, codec: str, dense_bytes: int) -> Iterator[str]:
    """Around one synchronous collective; gives the algorithm to call it with."""
    meter = _meters.get(comm)
    if meter is None:
        yield "auto"
        return
    row = meter.calls.setdefault((collective, codec), Row(meter.axis, comm.size, codec or "none", collective))
    before, since = comm.stats()["bytes_sent"], time.monotonic()
    yield meter.algorithm
    row.exposed_s += time.monotonic() - since
    row.sent_bytes += comm.stats()["bytes_sent"] - before
    row.calls += 1
    row.dense_bytes += dense_bytes
