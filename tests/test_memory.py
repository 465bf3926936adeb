"""What a communicator holds, and that nothing of it stays behind."""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gradwire

KIB = 1 << 10


def _held() -> dict[str, int]:
    """Of this process: descriptors, threads, mappings, resident KiB."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count() + int(status["Threads"]),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "KiB": int(status["VmRSS"].split()[0]),
    }


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_communicators_that_came_and_went_leave_nothing_behind(transport: str) -> None:
    def rank(comm: gradwire.Communicator) -> None:
        x = np.ones(100 * KIB, np.float32)
        comm.all_reduce(x)
        comm.all_reduce(x, codec="int8", async_op=True).wait()  # starts the worker thread

    for _ in range(5):
        gradwire.testing.run_ranks(2, rank, transport=transport)
    before = _held()
    for _ in range(15):
        gradwire.testing.run_ranks(2, rank, transport=transport)
    after = _held()
    assert after["descriptors"] <= before["descriptors"]
    assert after["threads"] <= before["threads"]
    assert after["mappings"] <= before["mappings"] + 8  # arenas of the allocator come and go
    assert after["KiB"] <= before["KiB"] + 4096  # each of them holds more than 1 MiB while it lives


def test_staging_is_counted_and_does_not_grow_with_calls() -> None:
    def rank(comm: gradwire.Communicator) -> tuple[int, int, int]:
        empty = comm.stats()["staging_bytes"]
        x = np.ones(300 * KIB, np.float32)
        comm.all_reduce(x, codec="int8")
        once = comm.stats()["staging_bytes"]
        for _ in range(5):
            comm.all_reduce(x, codec="int8")
            comm.all_reduce(x)
        return empty, once, comm.stats()["staging_bytes"]

    for empty, once, often in gradwire.testing.run_ranks(3, rank, "shm", channel_bytes=256 * KIB):
        # peers; lanes of collectives a quarter among three, and p2p; a board of two such channels
        assert empty == (2 * (2 * 64 + 256) + 2 * 64) * KIB
        assert empty < once <= empty + 512 * KIB
        assert often == once


def test_an_idle_communicator_uses_no_cpu() -> None:
    def rank(comm: gradwire.Communicator) -> None:
        comm.all_reduce(np.ones(4, np.float32), async_op=True).wait()
        time.sleep(0.5)

    # the ranks' threads sleep, and so must their communicators' own
    def burnt() -> float:
        start = time.process_time()
        gradwire.testing.run_ranks(2, rank, "shm")
        return time.process_time() - start

    assert min(burnt() for _ in range(3)) < 0.1


def test_results_do_not_depend_on_segments_channels_or_transport() -> None:
    def rank(comm: gradwire.Communicator) -> str:
        x = np.random.default_rng(comm.rank).standard_normal(77777).astype(np.float32)
        sums = [comm.all_reduce(x.copy(), algorithm=a) for a in ("direct", "ring", "double_tree")]
        return "".join(hashlib.sha256(y.tobytes()).hexdigest() for y in sums)

    settings = [
        ("inproc", {}),
        ("shm", {}),
        ("shm", {"channel_bytes": 64 * KIB, "segment_bytes": 4 * KIB}),
        ("tcp", {"sockets": 1}),
        ("tcp", {"sockets": 3, "segment_bytes": 16 * KIB}),
    ]
    results = [
        result
        for transport, some in settings
        for result in gradwire.testing.run_ranks(3, rank, transport, **some)  # type: ignore[arg-type]
    ]
    assert len(set(results)) == 1
