"""`gradwire run`: a script on several ranks, like torchrun without torch."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradwire.bench.arguments import UsageError, positive
from gradwire.bench.launch import with_threads
from gradwire.bench.processes import Command, run_ranks

EXAMPLES = """\
examples:
  gradwire run -n 4 train.py --steps 100           four ranks on this machine
  gradwire run -n 2 -m package.train               a module instead of a script
  gradwire run -n 8 --hosts node0,node1 train.py   eight ranks on each of two hosts, by ssh
  gradwire run -n 8 --hosts node0,node1 --dry-run train.py   print what would be started, where

The script finds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as under
torchrun: gradwire.init() and torch.distributed.init_process_group() need nothing else. Every line of output
gets its rank in front. When a rank fails it is named, the others are ended, and its exit code is passed on.
"""


def add_parser(commands: Any) -> None:
    p: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="start a script on several ranks",
        description="Starts one Python process a rank.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-n", "--ranks", type=positive, default=2, metavar="N", help="ranks a host (default 2)")
    p.add_argument("--hosts", metavar="A,B", help="hosts, rank 0's first; the folder must be there on each")
    p.add_argument("--ssh", default="ssh -tt -o BatchMode=yes", metavar="CMD", help="default: %(default)s")
    p.add_argument("--port", type=positive, metavar="P", help="MASTER_PORT; P + 1 must be free, too")
    p.add_argument("--grace", type=float, default=5.0, metavar="S", help="seconds the others get (default 5)")
    p.add_argument("--no-prefix", action="store_true", help="pass output on as it is")
    p.add_argument("--dry-run", action="store_true", help="print the commands instead")
    p.add_argument("-m", dest="module", action="store_true", help="the script is a module's name")
    p.add_argument("script", help="a Python file, or with -m a module")
    p.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to it")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    hosts = args.hosts.split(",") if args.hosts else [""]
    if not all(hosts) and args.hosts:
        raise UsageError(f"--hosts {args.hosts!r} has an empty name: separate names with one comma")
    if not args.module and not args.dry_run and not Path(args.script).is_file():
        raise UsageError(f"no file {args.script}; a module is started with -m {args.script}")
    with tempfile.TemporaryDirectory(prefix="gradwire-run-") as folder:
        commands = make_commands(args, hosts, folder)
        if args.dry_run:
            for command in commands:
                print(shlex.join(command.words))
            return 0
        return run_ranks(commands, not args.no_prefix, args.grace)


def make_commands(args: argparse.Namespace, hosts: list[str], folder: str) -> list[Command]:
    python = [sys.executable, *(["-m"] if args.module else []), args.script, *args.arguments]
    shared = {
        "WORLD_SIZE": str(len(hosts) * args.ranks),
        "LOCAL_WORLD_SIZE": str(args.ranks),
        "MASTER_ADDR": hosts[0] or "127.0.0.1",
        "MASTER_PORT": str(args.port or free_port()),
        "PYTHONUNBUFFERED": "1",  # a line is to be seen when it is written
    }
    if hosts == [""] and "GRADWIRE_STORE" not in os.environ:
        shared["GRADWIRE_STORE"] = (Path(folder) / "store").as_uri()
    base = with_threads(os.environ, args.ranks)
    commands = []
    for index, host in enumerate(hosts):
        for local in range(args.ranks):
            rank = index * args.ranks + local
            given = {**shared, "RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(index)}
            if host and not is_here(host):
                words = [*shlex.split(args.ssh), host, remote_line(python, base, given)]
                commands.append(Command(words, base, host))
            else:
                shown = ["env", *(f"{k}={v}" for k, v in given.items())] if args.dry_run else []
                commands.append(Command([*shown, *python], {**base, **given}, host))
    return commands


def remote_line(python: list[str], base: Mapping[str, str], given: Mapping[str, str]) -> str:
    """What a shell on another host is told: the same folder, our own settings, and the rank's place."""
    known = ("OMP_NUM_THREADS", "PYTHONPATH")
    ours = {k: v for k, v in base.items() if k.startswith("GRADWIRE_") or k in known}
    words = [f"{k}={v}" for k, v in {**ours, **given}.items()]
    return f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join(words)} {shlex.join(python)}"


def is_here(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn())


def free_port() -> int:
    """One that is free now, and the next as well: torch's store may take the first, gradwire's the second."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise UsageError("no two free ports next to one another: give one with --port")
