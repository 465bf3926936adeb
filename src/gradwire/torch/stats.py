"""What the hook counts: steps, bytes, and the time of communication that backward could not hide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """Of the steps so far. Bytes are those this rank sent, frame headers and retries included.

    `*_per_step` and `ratio` are means over all steps (dense warm-up steps too); `last_*` is the last step
    alone."""

    steps: int
    bytes_per_step: float
    dense_bytes_per_step: float  # the same steps with codec=None: 2 (n-1)/n of the gradients' bytes
    socket_bytes_per_step: float  # the part of bytes_per_step that the kernel accepted on sockets
    ratio: float  # dense_bytes_per_step / bytes_per_step
    exposed_s_per_step: float  # that backward could not hide: after the last bucket's start
    last_bytes: int
    last_dense_bytes: int
    last_exposed_s: float
    residual_norm: float


class StepCounter:
    """Sums the differences of the communicator's counters between a step's first bucket and its end, so
    that other traffic on the same communicator is not counted."""

    def __init__(self, counters: Callable[[], Mapping[str, int]], next_batch: bool = False) -> None:
        """next_batch: buckets travel between steps, too."""
        self._counters, self._next_batch = counters, next_batch
        self.steps = 0
        self._open: Mapping[str, int] | None = None
        self._buckets, self._dense, self._waited = 0, 0, 0.0
        self._last_hook = self._last_done = 0.0
        self._sum = {"bytes": 0, "socket": 0, "dense": 0}
        self._exposed = 0.0
        self._last = (0, 0, 0.0)

    def bucket(self, now: float, raw_bytes: int, size: int) -> None:
        if self._open is None:
            self._open = dict(self._counters())
        self._buckets += 1
        self._dense += 2 * (size - 1) * raw_bytes // size
        self._last_hook = now

    def done(self, now: float) -> None:
        self._last_done = now

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def close_step(self) -> None:
        """After the last bucket's completion. Calls without a bucket in between count nothing."""
        if self._open is None or not self._buckets:
            return
        after = dict(self._counters())
        sent = after["bytes_sent"] - self._open["bytes_sent"]
        socket = after["socket_bytes_sent"] - self._open["socket_bytes_sent"]
        exposed = self._waited if self._next_batch else max(0.0, self._last_done - self._last_hook)
        self._open = after if self._next_batch else None
        self.steps += 1
        for name, value in (("bytes", sent), ("socket", socket), ("dense", self._dense)):
            self._sum[name] += value
        self._exposed += exposed
        self._last = (sent, self._dense, exposed)
        self._buckets, self._dense, self._waited = 0, 0, 0.0

    def stats(self, residual_norm: float) -> Stats:
        n = max(1, self.steps)
        sent, dense = self._sum["bytes"], self._sum["dense"]
        return Stats(
            steps=self.steps,
            bytes_per_step=sent / n,
            dense_bytes_per_step=dense / n,
            socket_bytes_per_step=self._sum["socket"] / n,
            ratio=dense / sent if sent else 1.0,
            exposed_s_per_step=self._exposed / n,
            last_bytes=self._last[0],
            last_dense_bytes=self._last[1],
            last_exposed_s=self._last[2],
            residual_norm=residual_norm,
        )
