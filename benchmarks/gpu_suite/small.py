"""Some kernels once, on few values: what compute-sanitizer is run on, which takes a hundred times as long.

compute-sanitizer --tool memcheck python benchmarks/gpu_suite/small.py int8 int4
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

from gpu_suite import all_reduce, checks  # noqa: E402  # the folder of the scripts is no package
from gpu_suite.arrays import Own  # noqa: E402


def main() -> int:
    rows = [*checks.codec_rows(Own(), 4096, sys.argv[1:]), *all_reduce.check_rows(Own(), 4096, 1, ranks=(2,))]
    wrong = sum(row["wrong"] for row in rows)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
