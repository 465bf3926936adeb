"""What a result depends on besides the code: host, cores, versions, settings, the command."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path


def cores() -> int:
    """The cores this process may use, which containers and taskset make fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def share_of_cores(index: int, ranks: int) -> list[int]:
    """The index-th of `ranks` equal shares of this process's cores; all of them if there are fewer cores."""
    mine = sorted(os.sched_getaffinity(0))
    if ranks > len(mine):
        return mine
    return mine[index * len(mine) // ranks : (index + 1) * len(mine) // ranks]


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """Without importing it: torch takes seconds. None if it is not there."""
    if not importlib.util.find_spec(package):
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def settings() -> dict[str, str]:
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith("GRADWIRE_")}


def describe(words: Sequence[str]) -> dict[str, object]:
    """The `run` object of every JSON line. `words` are the command's arguments."""
    import gradwire
    from gradwire import _native

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "cpu": cpu_name(),
        "cores": cores(),
        "kernel": platform.release(),
        "isa": _native.isa(),
        "versions": {
            "gradwire": gradwire.__version__,
            "python": platform.python_version(),
            "numpy": version_of("numpy"),
            "torch": version_of("torch"),
        },
        "settings": settings(),
        "command": shlex.join(["gradwire", *words]),
    }


def cpu_ticks() -> tuple[int, int]:
    """(stolen, all) ticks since boot: what the hypervisor gave to others. (0, 1) where it cannot be known."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 1
    return ticks[7], sum(ticks)
