"""Starts the ranks of one benchmark as processes of this machine, and ends all of them whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gradwire.bench.machine import cores
from gradwire.errors import ArgumentError
from gradwire.launch import discover

_POLL_S = 0.02
_GRACE_S = 5.0  # how long the others may take after one rank failed, before they are told to end


def under_launcher() -> bool:
    """True if torchrun, MPI or Slurm started this process as one of several ranks."""
    try:
        discover()
    except ArgumentError:
        return False
    return True


def start_ranks(words: Sequence[str], ranks: int) -> int:
    """Runs `gradwire WORDS` once per rank, with a file store. Returns the worst exit code."""
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as folder:
        store = (Path(folder) / "store").as_uri()
        env = dict(os.environ)
        # one core's worth of OpenMP each: more would have the ranks' helper threads fight
        env.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ranks)))
        processes: list[subprocess.Popen[bytes]] = []
        previous = signal.signal(signal.SIGTERM, _leave)
        try:
            for rank in range(ranks):
                here = [f"--rank={rank}", f"--size={ranks}", f"--store={store}"]
                command = [sys.executable, "-m", "gradwire.bench", *words, *here]
                processes.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL))
            return _wait(processes)
        finally:
            _end(processes)
            signal.signal(signal.SIGTERM, previous)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that `finally` runs


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    give_up = float("inf")
    while any(p.poll() is None for p in processes):
        if give_up == float("inf") and any(p.returncode for p in processes):
            give_up = time.monotonic() + _GRACE_S
        if time.monotonic() > give_up:
            break
        time.sleep(_POLL_S)
    codes = [p.returncode for p in processes]
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            print(f"gradwire: rank {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
    return max((c if c >= 0 else 128 - c) if c is not None else 1 for c in codes)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for p in processes:
        if p.poll() is None:
            p.terminate()
    for p in processes:
        try:
            p.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
