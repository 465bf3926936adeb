"""Starts the ranks of one benchmark as processes of this machine."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradwire.bench.machine import cores
from gradwire.bench.processes import Command, run_ranks
from gradwire.errors import ArgumentError
from gradwire.launch import discover


def under_launcher() -> bool:
    """True if torchrun, MPI or Slurm started this process as one of several ranks."""
    try:
        discover()
    except ArgumentError:
        return False
    return True


def start_ranks(words: Sequence[str], ranks: int) -> int:
    """Runs `gradwire WORDS` once per rank, with a file store. Returns the exit code of the first to fail."""
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as folder:
        store = (Path(folder) / "store").as_uri()
        env = with_threads(os.environ, ranks)
        commands = []
        for rank in range(ranks):
            here = [f"--rank={rank}", f"--size={ranks}", f"--store={store}"]
            commands.append(Command([sys.executable, "-m", "gradwire", *words, *here], env))
        return run_ranks(commands)


def with_threads(env: Mapping[str, str], ranks: int) -> dict[str, str]:
    """One core's worth of OpenMP each, unless somebody chose: more would have the ranks' threads fight."""
    return {"OMP_NUM_THREADS": str(max(1, cores() // ranks)), **env}
