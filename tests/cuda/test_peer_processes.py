"""Processes that map one another's GPU memory reduce through it, with the bytes of the CPU's ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gradwire
from gradwire.testing import run_processes

WORKER = Path(__file__).parent / "peer_worker.py"


@pytest.mark.parametrize("n", [2, 3])
def test_processes_reduce_through_one_anothers_memory(n: int) -> None:
    for process in run_processes(n, WORKER, timeout=120, env={"OMP_NUM_THREADS": "1"}):
        assert process.stdout.strip() == "compared 36"


def test_a_bad_call_is_named_before_anything_is_sent() -> None:
    with gradwire.init(rank=0, size=1) as comm:
        peers = gradwire.PeerMemory(comm)
        with pytest.raises(gradwire.ArgumentError, match="must be in the memory of GPU 0"):
            peers.all_reduce(np.ones(3, np.float32))
