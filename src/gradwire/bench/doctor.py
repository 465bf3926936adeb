"""`gradwire doctor`: what is available, what is off and why, and what to do about it."""

from __future__ import annotations

import argparse
import glob
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradwire.bench import machine

OK, OFF, WARN, BROKEN = "ok", "off", "warn", "broken"


@dataclass(frozen=True)
class Finding:
    what: str
    state: (
        str  # ok; off: not there, and not needed; warn: works, but not as well; broken: gradwire cannot work
    )
    found: str
    remedy: str = ""


def add_parser(commands: Any) -> None:
    p: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="what works here, what is off and why",
        description="Checks installation and machine. Exit code 0, or 1 if something essential is broken.",
    )
    p.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = list(examine())
    if args.json:
        print(json.dumps({"ok": not _broken(findings), "checks": [asdict(f) for f in findings]}, indent=1))
    else:
        _print(findings)
    return int(_broken(findings))


def _broken(findings: list[Finding]) -> bool:
    return any(f.state == BROKEN for f in findings)


def examine() -> Iterator[Finding]:
    yield Finding("python", OK, f"{platform.python_version()} ({sys.executable})")
    yield Finding("platform", OK, f"{platform.platform()}, {machine.cpu_name()}")
    native = _check("gradwire", _library, "reinstall: pip install --force-reinstall gradwire")
    yield native
    yield _check("numpy", _numpy, "pip install 'numpy>=1.21'")
    if native.state != BROKEN:
        yield _check("kernels", _kernels, "")
        yield _check(
            "codecs", _codecs, "the build does not compute correctly here: report it with this output"
        )
        yield _check("all_reduce", _all_reduce, "the build does not work here: report it with this output")
        yield from _transports()
        yield _check("cuda", _cuda, "")
        yield from _settings()
    yield from _extras()
    yield _cores()
    yield _leftovers()


def _check(what: str, look: Callable[[], Finding], remedy: str) -> Finding:
    """Runs one examination; whatever it raises is the finding."""
    try:
        return look()
    except Exception as e:
        return Finding(what, BROKEN, _said(e), remedy)


def _said(e: Exception) -> str:
    return str(e) if type(e) is RuntimeError else f"{type(e).__name__}: {e}"


def _library() -> Finding:
    import gradwire
    from gradwire import _native

    build = ", ".join(f"{k} {v}" for k, v in _native.build_info().items())
    return Finding("gradwire", OK, f"{gradwire.__version__} ({Path(gradwire.__file__).parent}; {build})")


def _numpy() -> Finding:
    import numpy

    return Finding("numpy", OK, numpy.__version__)


def _kernels() -> Finding:
    from gradwire import _native

    able = _native.isas()
    found = f"{_native.isa()}; this CPU runs {', '.join(able)}"
    if able == ["portable"]:
        return Finding(
            "kernels", WARN, found, "codecs run without vector instructions on this CPU: expect them slower"
        )
    return Finding("kernels", OK, found)


def _codecs() -> Finding:
    return Finding("codecs", OK, _trial("codecs"))


def _all_reduce() -> Finding:
    return Finding("all_reduce", OK, f"two ranks of one process add correctly (auto: {_trial('auto')})")


def _trial(name: str) -> str:
    """What one experiment of trial.py says; RuntimeError says how it failed, be it by a crash."""
    # the folder is made, and removed, by who survives
    with tempfile.TemporaryDirectory(prefix="gradwire-doctor-") as folder:
        command = [sys.executable, "-m", "gradwire.bench.trial", name, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode < 0:
        raise RuntimeError(f"the experiment was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed without a word"])[-1])
    return done.stdout.strip()


def _transports() -> Iterator[Finding]:
    """Both are tried for real. One of them is enough to work: only `all_reduce` above is essential."""
    remedies = {
        "shm": "ranks of one host will use TCP. Shared memory needs memfd_create and /proc/<pid>/fd of "
        "one's own processes: same user, same PID namespace, /proc mounted",
        "tcp": "ranks of different hosts cannot meet. Let the firewall pass loopback and the ranks' ports, "
        "or name the interface: GRADWIRE_IFNAME=eth0",
    }
    for kind, remedy in remedies.items():
        try:
            _trial(kind)
            how = "shared memory inside a host" if kind == "shm" else f"sockets; {_addresses()}"
            yield Finding(kind, OK, how)
        except Exception as e:
            yield Finding(kind, WARN, _said(e), remedy)


def _addresses() -> str:
    from gradwire import _native

    config, found = _native.Config.from_env(), _native.reachable_addresses()
    if config.ifname:
        address = _native.address_of_interface(config.ifname)
        return f"GRADWIRE_IFNAME={config.ifname}: peers are given {address}"
    if not found:
        return "this host has no address but loopback: peers on other hosts cannot reach it"
    return f"peers are given the address toward a tcp:// store, or by a file:// store {', '.join(found)}"


def _cuda() -> Finding:
    from gradwire import _native

    status = _native.gpu.status()
    if status["usable"]:
        return Finding("cuda", OK, _trial("gpu") + f" ({status['text']})")
    return Finding("cuda", OFF, f"GPU arrays cannot be used: {status['text']}")


def _extras() -> Iterator[Finding]:
    uses = {
        "torch": (
            "the DDP hook and bench --vs gloo",
            "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        ),
        "rich": ("tables and progress bars", "pip install 'gradwire[bench]'"),
        "matplotlib": ("bench --plot", "pip install 'gradwire[bench]'"),
    }
    for package, (use, remedy) in uses.items():
        version = machine.version_of(package)
        if version:
            yield Finding(package, OK, version)
        else:
            yield Finding(package, OFF, f"not installed; for {use}", remedy)


def _cores() -> Finding:
    n = machine.cores()
    found = f"{n} usable: {n} ranks on this host run without sharing one"
    if n == 1:
        return Finding(
            "cores", WARN, found, "two ranks here take turns: latency will be that of the scheduler"
        )
    return Finding("cores", OK, found)


def _leftovers() -> Finding:
    """gradwire's own shared memory has no name and cannot stay behind: what is found is something else's."""
    left = sorted(glob.glob("/dev/shm/*gradwire*"))
    if not left:
        return Finding("/dev/shm", OK, "nothing of gradwire's left behind")
    return Finding("/dev/shm", WARN, ", ".join(left), f"if no run is using them: rm {' '.join(left)}")


def _settings() -> Iterator[Finding]:
    from gradwire.config import FIELDS

    others = ("STORE", "TOPOLOGY", "GPU", "CMAKE_ARGS", "CUDA", "CUDA_ARCHS")
    known = [f"GRADWIRE_{name}" for name in (*others, *(field.upper() for field in FIELDS))]
    found = machine.settings()
    if not found:
        yield Finding("settings", OK, "no GRADWIRE_* variable set: defaults apply")
    for name, value in found.items():
        if name in known:
            yield Finding("settings", OK, f"{name}={value}")
        else:
            yield Finding(
                "settings",
                WARN,
                f"{name}={value} is not a setting",
                f"a typing error? known are {', '.join(known)}",
            )
    if found:
        try:
            from gradwire import _native

            _native.Config.from_env()
        except Exception as e:
            yield Finding(
                "settings", BROKEN, str(e), f"unset or correct it ({', '.join(os.environ.keys() & found)})"
            )


def _print(findings: list[Finding]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # the one command that has to work when things are missing: a line each, no layout
        for f in findings:
            print(f"{f.state}: {f.what}: {f.found}" + (f"; {f.remedy}" if f.remedy else ""))
        return
    colours = {OK: "green", OFF: "dim", WARN: "yellow", BROKEN: "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for f in findings:
        text = Text(f.found)
        if f.remedy:
            text.append(f"\n-> {f.remedy}", style="italic")
        table.add_row(Text(f.state, style=colours[f.state]), f.what, text)
    Console(highlight=False).print(table)
