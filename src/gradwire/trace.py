"""Timelines of what the executor did, for https://ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple


class TraceEvent(NamedTuple):
    """One span. Times are seconds on time.monotonic's clock, which all processes of a host share.

    name: a collective ("all_reduce"), or a step of one ("encode+send", "send", "reduce", "recv"). seq: number
    of the operation. peer, chunk, segment: of a step; -1 for the operation itself.

    >>> import gradwire, numpy as np
    >>> comm = gradwire.init(rank=0, size=1)
    >>> comm.trace_start()
    >>> x = comm.all_reduce(np.ones(8, np.float32))
    >>> events = comm.trace_stop()
    >>> all(event.end_s >= event.start_s for event in events)
    True
    """

    name: str
    start_s: float
    end_s: float
    seq: int
    peer: int
    chunk: int
    segment: int
    bytes: int


def chrome_events(events: Iterable[TraceEvent], rank: int) -> list[dict[str, Any]]:
    """Chrome trace events (microseconds): a process per rank, so that files of ranks can be joined."""
    out: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}}
    ]
    for e in events:
        common = {"name": e.name, "pid": rank, "tid": 0}
        args = {"op": e.seq, "bytes": e.bytes, "peer": e.peer, "chunk": e.chunk, "segment": e.segment}
        if e.chunk < 0:
            # Several operations are in flight at once: spans of one thread must nest, async spans need not.
            span = {**common, "cat": "operation", "id": e.seq}
            out.append({**span, "ph": "b", "ts": e.start_s * 1e6, "args": args})
            out.append({**span, "ph": "e", "ts": e.end_s * 1e6})
        else:
            out.append({**common, "cat": "step", "ph": "X", "ts": e.start_s * 1e6,
                        "dur": (e.end_s - e.start_s) * 1e6, "args": args})  # fmt: skip
    return out


def write_chrome(path: str | os.PathLike[str], events: Iterable[TraceEvent], rank: int) -> None:
    """Write one rank's file; "{rank}" in the path is replaced by the rank."""
    target = os.fspath(path).replace("{rank}", str(rank))
    with open(target, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": chrome_events(events, rank), "displayTimeUnit": "ms"}, file)
