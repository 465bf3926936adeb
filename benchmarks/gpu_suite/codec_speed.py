"""Speed of the codec kernels beside a copy and the peers; each result is checked before it is timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_suite import clock, peers
from gpu_suite.arrays import Kind, as_bytes
from gpu_suite.clock import Clock, Entry
from gpu_suite.codec_stages import stages

import gradwire
from gradwire import ops
from gradwire.bench.arguments import human_size
from gradwire.bench.report import Progress

Row = dict[str, Any]
RATIO = 0.01  # of top-k


@dataclass
class Bench:
    """Arrays of one kind, and what times the calls on them. codecs: as `gradwire.codec` takes them."""

    kind: Kind
    clock: Clock
    codecs: list[str]

    def rows(self, sizes: list[int], until: float, bar: Progress) -> Iterator[Row]:
        """A row an entry and size. sizes: bytes of fp32; they share the time until `until` evenly."""
        for i, size in enumerate(sizes):
            now = time.monotonic()
            yield from self._rows(size, now + (until - now) / (len(sizes) - i), bar)

    def _rows(self, size: int, until: float, bar: Progress) -> Iterator[Row]:
        x = np.random.default_rng(size).standard_normal(size // 4, np.float32)
        entries, failed = [copy(self.kind, x)], []
        for found in (_gradwire(self.kind, self.codecs, x), _topk(self.kind, x), peers.entries(self.kind, x)):
            for entry in found:
                entry.what = {"part": "codec", **entry.what, "size": size, "count": x.size}
                (failed if entry.what.get("wrong") or entry.what.get("skipped") else entries).append(entry)
                bar.step(f"{entry.what['entry']} {entry.what['stage']}, {human_size(size)}")
        clock.interleave(self.clock, entries, until, bar)
        yield from (clock.row(entry, entries[0]) for entry in entries)
        yield from (clock.untimed(entry) for entry in failed)


def copy(kind: Kind, x: npt.NDArray[np.float32]) -> Entry:
    """What the shares are of: a copy within device memory of the same fp32 array."""
    there, to = kind.put(x, "float32"), kind.put(np.zeros_like(x), "float32")
    out = kind.put(np.zeros(x.nbytes, np.uint8), "uint8")

    def run() -> None:
        if hasattr(to, "copy_"):
            to.copy_(there)
        else:
            ops.quantize(there, codec="identity", out=out)

    what = {"part": "codec", "entry": "copy", "stage": "copy", "codec": None}
    return Entry({**what, "size": x.nbytes, "count": x.size}, run, 2 * x.nbytes)


def _gradwire(kind: Kind, codecs: list[str], x: npt.NDArray[np.float32]) -> Iterator[Entry]:
    for spec in codecs:
        codec = gradwire.codec(spec)
        for stage in stages(codec, x, "float32", kind):
            stage.run()
            wrong = stage.wrong()
            what = {"entry": "gradwire", "stage": stage.name, "codec": repr(codec), "wrong": wrong}
            yield Entry(what, stage.run, stage.bytes)


def _topk(kind: Kind, x: npt.NDArray[np.float32]) -> Iterator[Entry]:
    k = max(1, round(RATIO * x.size))
    what = {"entry": "gradwire", "stage": "topk", "codec": f"topk(ratio={RATIO})"}
    values, indices = ops.topk(x, k=k)
    there = kind.put(x, "float32")
    out = kind.put(values, "float32"), kind.put(indices, "int64")
    bytes_moved = x.nbytes + 12 * k  # one read: how many passes it takes is the kernel's business

    def run() -> None:
        ops.topk(there, k=k, out=out)

    try:
        run()
    except gradwire.ArgumentError as error:
        yield Entry({**what, "skipped": str(error)}, run, bytes_moved)
        return
    wrong = (kind.get(out[0]) != as_bytes(values)).sum() + (kind.get(out[1]) != as_bytes(indices)).sum()
    yield Entry({**what, "wrong": int(wrong)}, run, bytes_moved)
