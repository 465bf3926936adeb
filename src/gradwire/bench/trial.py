"""`python -m gradwire.bench.trial NAME FOLDER`: one experiment of the doctor, in a process of its own.

The doctor has to outlive what it examines: a build that crashes here is a finding, not the end of the report.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np

import gradwire

TIMEOUT_S = 10.0


def codecs() -> str:
    """Encodes and decodes with every codec: exact ones exactly."""
    x = np.random.default_rng(1).standard_normal(1000, np.float32)
    for name in gradwire.codecs():
        codec = gradwire.codec(name)
        y = np.asarray(gradwire.decode(gradwire.encode(x, codec)))
        error = float(np.linalg.norm(y - x) / np.linalg.norm(x))
        if not (error < 1 if codec.lossy else error == 0):
            raise ArithmeticError(f"{name} gives back {error:.3g} relative error")
    return ", ".join(gradwire.codecs())


def gpu() -> str:
    """The same bytes from GPU 0 as from the CPU."""
    x = np.random.default_rng(1).standard_normal(5000, np.float32)
    there = gradwire.testing.to_gpu(x)
    payload = gradwire.testing.to_cpu(gradwire.ops.quantize(there, bits=4).payload)
    if not np.array_equal(payload, gradwire.ops.quantize(x, bits=4).payload):
        raise ArithmeticError("int4 gives other bytes on the GPU than on the CPU")
    return "encodes the same bytes as the CPU"


def two_ranks(transport: str, folder: str) -> str:
    """An all_reduce of two ranks of this process that meet in `folder`. Returns the transport they used."""
    failed: list[BaseException] = []
    used = [""]
    store = (Path(folder) / "store").resolve().as_uri()

    def rank(r: int) -> None:
        try:
            with gradwire.init(r, 2, store, timeout=TIMEOUT_S, transport=transport) as comm:
                x = np.full(100_000, r + 1, np.float32)
                comm.all_reduce(x)
                if not (x == 3).all():
                    raise ArithmeticError(f"1 + 2 came out as {x[x != 3][0]:g}")
                used[0] = comm.peers()[1 - r][0]
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=rank, args=(r,), daemon=True) for r in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(2 * TIMEOUT_S)
        if t.is_alive():
            failed.append(TimeoutError(f"no result within {2 * TIMEOUT_S:.0f} s"))
    if failed:
        raise failed[0]
    return used[0]


def main(name: str, folder: str) -> int:
    try:
        alone = {"codecs": codecs, "gpu": gpu}
        print(alone[name]() if name in alone else two_ranks(name, folder))
    except Exception as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
