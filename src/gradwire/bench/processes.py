"""One process a rank: starts them, passes on what they say, names the one that fails first, ends the rest."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO

_POLL_S = 0.02
_END_S = 5.0  # from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Command:
    """What a rank is started with. env: its whole environment."""

    words: Sequence[str]
    env: Mapping[str, str]
    host: str = ""


def run_ranks(commands: Sequence[Command], prefixed: bool = False, grace_s: float = 5.0) -> int:
    """Runs them all; returns 0, or the exit code of the rank that failed first (128 + n after signal n).

    prefixed: every line is passed on with its rank in front. grace_s: how long the others may go on after one
    failed, to report what they saw. However this function is left (Ctrl-C, SIGTERM, an exception), no rank
    remains, nor what a rank started.
    """
    processes: list[subprocess.Popen[bytes]] = []
    pumps: list[threading.Thread] = []
    with _terminable():
        try:
            pipe = subprocess.PIPE if prefixed else None
            for command in commands:
                processes.append(
                    subprocess.Popen(
                        list(command.words),
                        env=dict(command.env),
                        stdin=subprocess.DEVNULL,
                        stdout=pipe,
                        stderr=pipe,
                        start_new_session=True,  # a group of its own: what it starts ends with it
                        preexec_fn=_end_with_launcher,  # noqa: PLW1509 - no thread is running yet
                    )
                )
            if prefixed:
                pumps = [p for rank, process in enumerate(processes) for p in _pump(rank, process)]
            return _wait(processes, commands, grace_s)
        finally:
            _end(processes)
            for pump in pumps:
                pump.join(1.0)  # a process that left its group may keep a pipe open


def _end_with_launcher() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM leaves by an exception, so that `finally` runs."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


_print_lock = threading.Lock()


def _pump(rank: int, process: subprocess.Popen[bytes]) -> list[threading.Thread]:
    def pass_on(source: IO[bytes], target: IO[bytes]) -> None:
        for line in source:
            whole = b"[%d] " % rank + line.rstrip(b"\r\n") + b"\n"
            # our own reader may leave, as `head` does: the rank must not notice
            with contextlib.suppress(BrokenPipeError, ValueError), _print_lock:
                target.write(whole)
                target.flush()

    assert process.stdout is not None
    assert process.stderr is not None
    ways = ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
    threads = [threading.Thread(target=pass_on, args=way, daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    return threads


def _wait(processes: Sequence[subprocess.Popen[bytes]], commands: Sequence[Command], grace_s: float) -> int:
    culprit: int | None = None
    give_up = float("inf")
    while True:
        running = sum(p.poll() is None for p in processes)  # a sum: each of them is asked
        if culprit is None:
            culprit = _first_failed(processes)
            if culprit is not None:
                give_up = time.monotonic() + grace_s
                _report(culprit, processes[culprit], commands[culprit].host, running)
        if not running or time.monotonic() > give_up:
            return 0 if culprit is None else _code(processes[culprit])
        time.sleep(_POLL_S)


def _first_failed(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    failed = [rank for rank, p in enumerate(processes) if p.returncode]
    # of several at once, one that a signal ended did not merely report another's end
    return min(failed, key=lambda rank: (processes[rank].returncode > 0, rank), default=None)


def _code(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def _report(rank: int, process: subprocess.Popen[bytes], host: str, others: int) -> None:
    if process.returncode < 0:
        how = f"was ended by {signal.Signals(-process.returncode).name}"
    else:
        how = f"ended with exit code {process.returncode}"
    where = f" on {host}" if host else ""
    rest = f"; ending the other {others}" if others else ""
    print(f"gradwire: rank {rank}{where} (pid {process.pid}) {how}{rest}", file=sys.stderr, flush=True)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    try:
        for p in processes:
            _signal(p, signal.SIGTERM)
        _wait_for(processes, _END_S)
    finally:  # a second Ctrl-C does not wait, and leaves nothing either
        for p in processes:
            _signal(p, signal.SIGKILL)
        _wait_for(processes, _END_S)  # one that hangs in the kernel outlives even SIGKILL


def _wait_for(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all of them have ended, or so many seconds are over."""
    until = time.monotonic() + seconds
    for p in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.wait(max(0.0, until - time.monotonic()))


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
