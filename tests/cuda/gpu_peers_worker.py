"""One process of test_gpu_peers.py: rank 1 is killed between two all_reduces, the others go on without it."""

from __future__ import annotations

import os
import signal

import numpy as np

import gradwire
from gradwire.testing import to_cpu, to_gpu


def main() -> None:
    comm = gradwire.init(gpu_peers=True, timeout=20)
    rank = comm.rank
    for count in (1, 5000, 70_001):
        for algorithm, codec in (
            ("direct", None),
            ("one_shot", "int8"),
            ("ring", "int4"),
            ("direct", "bf16"),
        ):
            x = np.random.default_rng(rank).standard_normal(count).astype(np.float32)
            there = to_gpu(x)
            comm.all_reduce(there, algorithm=algorithm, codec=codec)
            comm.all_reduce(x, algorithm=algorithm, codec=codec)
            np.testing.assert_array_equal(to_cpu(there), x)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    x = to_gpu(np.ones(1000, np.float32))
    try:
        while True:
            comm.all_reduce(x, "avg")
    except gradwire.PeerLost as error:
        print(type(error).__name__, error.rank)
    comm.reconfigure(rank=rank // 2, size=2)
    x = to_gpu(np.float32([2 + comm.rank]))
    comm.all_reduce(x)
    print(comm.gpu_peers, to_cpu(x)[0])
    comm.close()


if __name__ == "__main__":
    main()
