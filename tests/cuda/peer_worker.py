"""One process of test_peer_processes.py: all_reduces through shared GPU memory against the CPU's."""

from __future__ import annotations

import numpy as np

import gradwire
from gradwire.testing import to_cpu, to_gpu

ALGORITHMS = ("one_shot", "direct", "ring", "double_tree")


def main() -> None:
    with gradwire.init() as comm:
        peers = gradwire.PeerMemory(comm)
        rng = np.random.default_rng(comm.rank)
        compared = 0
        # counts grow: the ranks meet for more memory in between
        for count in (1, 130, 5003):
            for algorithm in ALGORITHMS:
                for codec in (None, "int8", gradwire.codec("int4", block=32)):
                    x = rng.standard_normal(count).astype(np.float32)
                    there = to_gpu(x)
                    peers.all_reduce(there, algorithm=algorithm, codec=codec, timeout=30)
                    comm.all_reduce(x, algorithm=algorithm, codec=codec)
                    np.testing.assert_array_equal(to_cpu(there), x, f"{algorithm} {codec} {count}")
                    compared += 1
        # one after the other without waiting
        there = to_gpu(np.ones(300, np.float32))
        for _ in range(5):
            peers.all_reduce(there, op="avg", wait=False, timeout=30)
        peers.synchronize()
        np.testing.assert_array_equal(to_cpu(there), np.ones(300, np.float32))
        print(f"compared {compared}")


if __name__ == "__main__":
    main()
