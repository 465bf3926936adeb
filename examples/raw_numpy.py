"""Collectives on NumPy arrays, no torch: a least-squares fit whose rows are spread over the ranks.

gradwire run -n 2 examples/raw_numpy.py      # or: mpirun -n 2 python examples/raw_numpy.py, or torchrun
"""

from __future__ import annotations

import argparse

import numpy as np

import gradwire

ROWS, COLUMNS, STEPS = 4096, 512, 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", default="int4", help="int8, int4, topk, bf16, ... or none")
    codec = parser.parse_args().codec
    with gradwire.init() as comm:
        truth = np.random.default_rng(0).standard_normal(COLUMNS, np.float32)
        mine = np.random.default_rng(1 + comm.rank).standard_normal((ROWS, COLUMNS), np.float32)
        target = mine @ truth

        guess = np.zeros(COLUMNS, np.float32)
        residual = np.zeros(COLUMNS, np.float32)  # what the codec lost so far; it is sent later
        for _ in range(STEPS):
            gradient = mine.T @ (mine @ guess - target) / ROWS
            if codec == "none":
                comm.all_reduce(gradient, op="avg")
            else:
                comm.all_reduce(gradient, op="avg", codec=codec, residual=residual)
            guess -= 0.5 * gradient

        error = np.linalg.norm(guess - truth) / np.linalg.norm(truth)
        same = comm.all_gather(np.frombuffer(guess.tobytes(), np.uint8))
        if comm.rank == 0:
            print(f"relative error {error:.1e} after {STEPS} steps with {codec} on {comm.size} ranks")
            print(f"replicas are bit-identical: {all((row == same[0]).all() for row in same)}")
            print(f"bytes sent by this rank: {comm.stats()['bytes_sent']:,}")


if __name__ == "__main__":
    main()
