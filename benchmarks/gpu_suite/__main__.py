"""One command for a GPU machine: builds gradwire for it, checks every kernel, times them beside the peers.

    python benchmarks/gpu_suite                    # 8 minutes; rows go to benchmarks/results/gpu_suite.jsonl
    python benchmarks/gpu_suite --parts checks     # nothing but what must be right
    GRADWIRE_GPU=sim python benchmarks/gpu_suite   # the same code, tiny, on the CPU's simulator (make cusim)

Needs nvcc, and torch for the timings; Triton, CuPy and compute-sanitizer are used where they are, and what is
missing is said. Exit code 1: a result was wrong. 2: there is no GPU to run on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from gpu_suite import build  # noqa: E402  # the folder of the scripts is no package


def main() -> int:
    began = time.monotonic()
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gpu_suite", description=__doc__, formatter_class=raw)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default 8)")
    parser.add_argument("--sizes", help="bytes of fp32 (default 1m,25m,400m; of a virtual rank 64k to 100m)")
    parser.add_argument("--codec", default="int8(block=64),int4", help="to time (default %(default)s)")
    parser.add_argument("--parts", help="some of checks,others,codec,all_reduce,ddp (default: all)")
    parser.add_argument("--json", default=str(HERE.parent / "results" / "gpu_suite.jsonl"), metavar="FILE")
    parser.add_argument("--build", action="store_true", help="build even if a plug-in is installed")
    parser.add_argument("--no-build", action="store_true", help="never build")
    args = parser.parse_args()
    missing = build.missing()
    if args.build or (missing and build.asked("name") and not args.no_build):
        missing = build.install() or build.missing()
    if missing:
        print(f"no GPU to run on: {missing}; or GRADWIRE_GPU=sim, after make cusim", file=sys.stderr)
        return 2
    from gpu_suite import suite

    return suite.run(args, began)


if __name__ == "__main__":
    sys.exit(main())
