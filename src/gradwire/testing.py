"""Ranks without a launcher: as threads of this process, with faults on demand, or as processes of this host.

For tests and examples of programs that use gradwire, and for gradwire's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradwire import Communicator, _native, init
from gradwire.rendezvous import Place
from gradwire.virtual_ranks import Replay, VirtualRanks, virtual_ranks

__all__ = [
    "Hub",
    "ProcessResult",
    "Replay",
    "VirtualRanks",
    "run_processes",
    "run_ranks",
    "to_cpu",
    "to_gpu",
    "virtual_ranks",
]

T = TypeVar("T")
_KILLED_S = 5.0  # from SIGKILL to giving up
# Small, so that tests pipeline many segments at small counts; 8 ranks have 168 channels.
_SMALL = {"channel_bytes": 1 << 18, "segment_bytes": 1 << 15}


def to_gpu(x: Any, device: int = 0) -> _native.DeviceArray:
    """A copy of a NumPy array in GPU memory, of any shape, for `gradwire.ops`; GpuError if there is none.

    With GRADWIRE_GPU=sim in the environment the GPU is a simulated one: the same kernels, run by the CPU.

    >>> import gradwire, numpy as np
    >>> try:
    ...     x = gradwire.testing.to_cpu(gradwire.testing.to_gpu(np.float32([1, 2])))
    ... except gradwire.GpuError:
    ...     x = np.float32([1, 2])
    >>> x
    array([1., 2.], dtype=float32)
    """
    host = np.ascontiguousarray(x)
    there = _native.gpu.DeviceArray(host.shape, str(host.dtype), device)
    there.copy_from(host)
    return there


def to_cpu(x: _native.DeviceArray) -> Any:
    """A NumPy copy of what `to_gpu` or an operator on its arrays made; bfloat16 as uint16.

    >>> import gradwire
    >>> gradwire.testing.to_cpu.__name__
    'to_cpu'
    """
    dtype = "uint16" if x.dtype == "bfloat16" else x.dtype
    host: Any = np.empty(x.shape, dtype)
    x.copy_to(host.view(np.uint8).reshape(-1) if host.size else np.empty(0, np.uint8))
    return host


class Hub:
    """A meeting place for ranks that are threads of one process: pass it as `store=`. It can break on demand.

    Faults act on the ranks' latest common generation (epoch), not on groups made by `split`.

    >>> import gradwire, numpy as np
    >>> hub = gradwire.testing.Hub()
    >>> def rank(comm):
    ...     if comm.rank == 1:
    ...         return hub.close(1)  # as if its process had been killed
    ...     try:
    ...         comm.barrier(timeout=10)
    ...     except gradwire.PeerLost as error:
    ...         return f"lost rank {error.rank}"
    >>> gradwire.testing.run_ranks(2, rank, transport=hub)[0]
    'lost rank 1'
    """

    def __init__(self) -> None:
        self._hubs: dict[tuple[str, int, int], _native.InprocHub] = {}
        self._latest: _native.InprocHub | None = None
        self._lock = threading.Lock()

    def connect(self, place: Place, scope: str, config: _native.Config, timeout: float) -> _native.Transport:
        """What `gradwire.init` calls: the first rank of a group and generation makes their hub."""
        rank, size, epoch = place
        with self._lock:
            hub = self._hubs.get((scope, epoch, size))
            if hub is None:
                hub = _native.InprocHub(size, config.channel_bytes)
                self._hubs[scope, epoch, size] = hub
                if "/split" not in scope:
                    self._latest = hub
        return hub.connect(rank)

    def _native_hub(self) -> _native.InprocHub:
        if self._latest is None:
            raise RuntimeError("no rank has met at this hub yet")
        return self._latest

    def delay(self, src: int, dst: int, seconds: float) -> None:
        """From now on every message from src to dst is seen that much later."""
        self._native_hub().delay(src, dst, seconds)

    def drop(self, src: int, dst: int) -> None:
        """From now on nothing from src arrives at dst, and nobody is told."""
        self._native_hub().drop(src, dst)

    def close(self, rank: int | None = None) -> None:
        """With a rank: as if its process had been killed. Without: nothing, what a meeting place is asked at
        the end.
        """
        if rank is not None:
            self._native_hub().close(rank)


def run_ranks(
    n: int,
    fn: Callable[[Communicator], T],
    transport: str | Hub = "inproc",
    timeout: float = 60.0,
    **settings: Any,
) -> list[T]:
    """Run fn(comm) on n ranks, each a thread of this process; return what they returned, in rank order.

    transport: "inproc", a Hub, or "shm" or "tcp" for the real thing between the threads. timeout: seconds for
    the whole run, also the communicators' default. settings: of `gradwire.init`. Raises the error that came
    first; all of them are in its attribute `rank_errors`, by rank. TimeoutError, with the stacks, if a rank
    is still running at the end.

    >>> import gradwire
    >>> gradwire.testing.run_ranks(3, lambda comm: comm.rank * 10)
    [0, 10, 20]
    """
    if isinstance(transport, str) and transport != "inproc":
        with tempfile.TemporaryDirectory(prefix="gradwire-ranks-") as folder:
            return _run_ranks(n, fn, f"file://{folder}/store", timeout, {"transport": transport, **settings})
    meeting = transport if isinstance(transport, Hub) else Hub()
    return _run_ranks(n, fn, meeting, timeout, {**_SMALL, **settings})


def _run_ranks(
    n: int, fn: Callable[[Communicator], T], store: Any, timeout: float, settings: dict[str, Any]
) -> list[T]:
    results: list[Any] = [None] * n
    comms: list[Communicator | None] = [None] * n
    errors: dict[int, BaseException] = {}  # in the order in which they came

    def run(rank: int) -> None:
        try:
            comm = comms[rank] = init(rank=rank, size=n, store=store, **{"timeout": timeout, **settings})
            results[rank] = fn(comm)
        except BaseException as error:
            errors[rank] = error
            if comms[rank] is not None:  # the others need not wait for this rank
                comms[rank].abort(f"rank {rank} left by {type(error).__name__}: {error}")  # type: ignore[union-attr]

    threads = [threading.Thread(target=run, args=(r,), name=f"rank {r}", daemon=True) for r in range(n)]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hanging = [t for t in threads if t.is_alive()]
    stacks = _stacks(hanging)
    # Only now: a rank that is done early must not look lost to those that are not.
    for comm in comms:
        if comm is not None:
            if hanging:
                comm.abort("run_ranks: time is up")
            else:
                comm.close()
    if errors:
        first = next(iter(errors.values()))
        first.rank_errors = errors  # type: ignore[attr-defined]
        raise first
    if hanging:
        raise TimeoutError(
            f"{', '.join(t.name for t in hanging)} of {n} still running after {timeout:g} s\n{stacks}"
        )
    return results


def _stacks(threads: Sequence[threading.Thread]) -> str:
    frames = sys._current_frames()
    stacks = []
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            stacks.append(f"{thread.name}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(stacks)


@dataclass(frozen=True)
class ProcessResult:
    """How one process of `run_processes` ended. returncode: negative: killed by that signal. stdout, stderr:
    text.
    """

    rank: int
    returncode: int
    stdout: str
    stderr: str


def run_processes(
    n: int,
    target: str | os.PathLike[str],
    *arguments: str,
    timeout: float = 120.0,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> list[ProcessResult]:
    """Run n processes, in which `gradwire.init()` finds rank, size and a store.

    target: "package.module:function", or the path of a script. arguments: strings for sys.argv. env:
    variables on top of this process's. check: raise RuntimeError with the output if a process fails. At the
    deadline (seconds) whatever still runs is killed and TimeoutError raised; nothing stays behind.

    >>> import gradwire
    >>> [p.returncode for p in gradwire.testing.run_processes(2, "gradwire.testing:example", timeout=60)]
    [0, 0]
    """
    text = os.fspath(target)
    if ":" in text and not os.path.exists(text):
        module, _, function = text.partition(":")
        command = [sys.executable, "-c", f"import {module} as m; m.{function}()", *arguments]
    else:
        command = [sys.executable, text, *arguments]
    with tempfile.TemporaryDirectory(prefix="gradwire-processes-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(n):
                variables = {
                    **os.environ,
                    "RANK": str(rank),
                    "WORLD_SIZE": str(n),
                    "LOCAL_RANK": str(rank),
                    "GRADWIRE_STORE": f"file://{folder}/store",
                    **(env or {}),
                }
                # Files, not pipes: a process that talks much must not block on one that is read later.
                with open(f"{folder}/out.{rank}", "wb") as out, open(f"{folder}/err.{rank}", "wb") as err:
                    processes.append(
                        subprocess.Popen(
                            command,
                            env=variables,
                            stdin=subprocess.DEVNULL,
                            stdout=out,
                            stderr=err,
                            start_new_session=True,
                        )
                    )
            deadline = time.monotonic() + timeout
            late = []
            for rank, process in enumerate(processes):
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    late.append(rank)
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its children too
            for process in processes:
                with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel outlives SIGKILL
                    process.wait(_KILLED_S)
        results = [
            ProcessResult(rank, p.returncode, _text(f"{folder}/out.{rank}"), _text(f"{folder}/err.{rank}"))
            for rank, p in enumerate(processes)
        ]
    failed = [r for r in results if r.returncode != 0]
    if late:
        raise TimeoutError(f"ranks {late} of {n} still running after {timeout:g} s\n{_report(results)}")
    if check and failed:
        raise RuntimeError(f"ranks {[r.rank for r in failed]} of {n} failed\n{_report(failed)}")
    return results


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _report(results: Sequence[ProcessResult]) -> str:
    return "\n".join(f"rank {r.rank}: exit code {r.returncode}\n{r.stdout}{r.stderr}" for r in results)


def example() -> None:
    """What every process of the example of `run_processes` does."""
    with init() as comm:
        comm.barrier()
