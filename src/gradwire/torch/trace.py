"""A timeline of backward, buckets and wire for chrome://tracing or ui.perfetto.dev.

Rows of one rank: what the backward thread computed between two buckets; every bucket from "ready" to
"done", on rows that do not overlap; and what the native thread did (encode, send, ...), as the communicator
traced it. A bucket's row lying over the next bucket's computation is the overlap.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradwire.trace import TraceEvent, chrome_events

_BACKWARD, _BUCKETS = 1, 10  # row numbers; the communicator's own is 0


class HookTrace:
    """Times on time.monotonic's clock, as the native events are."""

    def __init__(self) -> None:
        self.buckets: list[tuple[object, float, float, int]] = []  # key, ready_s, done_s, elements
        self.computed: list[tuple[float, float, str]] = []
        self._ready: dict[object, tuple[float, int]] = {}
        self._since: float | None = None

    def backward_begins(self, now: float) -> None:
        """The end of forward is the nearest moment that DDP lets anyone see."""
        self._since = now

    def ready(self, key: object, now: float, numel: int) -> None:
        if self._since is not None:
            self.computed.append((self._since, now, f"backward until bucket {key}"))
        self._ready[key] = (now, numel)

    def submitted(self, now: float) -> None:
        self._since = now

    def backward_ends(self) -> None:
        self._since = None

    def done(self, key: object, now: float) -> None:
        if key in self._ready:
            begin, numel = self._ready.pop(key)
            self.buckets.append((key, begin, now, numel))

    def hidden_share(self) -> float:
        """Of the time that buckets were under way, the share during which the backward thread computed."""
        total = sum(end - begin for _, begin, end, _ in self.buckets)
        hidden = sum(
            max(0.0, min(end, c_end) - max(begin, c_begin))
            for _, begin, end, _ in self.buckets
            for c_begin, c_end, _ in self.computed
        )
        return hidden / total if total else 0.0


def write(path: str | os.PathLike[str], trace: HookTrace, native: Iterable[TraceEvent], rank: int) -> None:
    events = chrome_events(native, rank)

    def row(tid: int, name: str) -> None:
        for kind, value in (("thread_name", {"name": name}), ("thread_sort_index", {"sort_index": tid})):
            events.append({"name": kind, "ph": "M", "pid": rank, "tid": tid, "args": value})

    def span(tid: int, name: str, begin: float, end: float, args: dict[str, Any]) -> None:
        us = {"ts": begin * 1e6, "dur": (end - begin) * 1e6}
        events.append({"name": name, "ph": "X", "pid": rank, "tid": tid, **us, "args": args})

    row(0, "communicator")
    row(_BACKWARD, "backward thread")
    for begin, end, name in trace.computed:
        span(_BACKWARD, name, begin, end, {})
    busy_until: list[float] = []  # of every bucket row: viewers draw overlapping spans of one row wrongly
    for key, begin, end, numel in sorted(trace.buckets, key=lambda b: b[1]):
        free = [i for i, until in enumerate(busy_until) if until <= begin]
        i = free[0] if free else len(busy_until)
        busy_until[i : i + 1] = [end]
        span(_BUCKETS + i, f"bucket {key}", begin, end, {"elements": numel})
    for i in range(len(busy_until)):
        row(_BUCKETS + i, "buckets under way")
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
