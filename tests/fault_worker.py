"""One rank of test_faults.py: reduces over and over until an error ends it, and reports the error as JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import gradwire


def main() -> None:
    options = json.loads(sys.argv[1])
    comm = gradwire.init(
        rank=options["rank"],
        size=options["size"],
        store=options["store"],
        transport=options["transport"],
        timeout=options["timeout"],
    )
    x = comm.empty(options["count"]) if options.get("shared") else np.zeros(options["count"], np.float32)
    x[:] = 0
    comm.barrier()
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + 30
    last = time.monotonic()
    report = {"error": None}
    while time.monotonic() < end:
        last = time.monotonic()
        try:
            if options.get("root") is not None:
                comm.broadcast(x, options["root"], algorithm=options["algorithm"])
            else:
                comm.all_reduce(x, algorithm=options["algorithm"], codec=options["codec"])
        except gradwire.GradwireError as e:
            report = {
                "error": type(e).__name__,
                "rank": e.rank,
                "host": e.host,
                "op": e.op,
                "step": e.step,
                "text": str(e),
                "seconds": time.monotonic() - last,
            }
            break
    comm.close()
    x[:] = 1  # still this rank's memory
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
