"""check_spills.py LOG: fails if a kernel in the output of `nvcc -Xptxas -v` spills or has a stack.

Every kernel of csrc/cuda is one that a gradient passes through, so none is excused.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


class Kernel(NamedTuple):
    name: str  # mangled
    arch: str
    stack: int
    spilled: int
    registers: int


def read(log: str) -> list[Kernel]:
    kernels = []
    for part in log.split("ptxas info    : Compiling entry")[1:]:
        entry = ENTRY.search("Compiling entry" + part)
        spills, registers = SPILLS.search(part), REGISTERS.search(part)
        if not (entry and spills and registers):
            raise SystemExit(f"not understood, does ptxas print something new?\n{part}")
        stack, stores, loads = map(int, spills.groups())
        kernels.append(Kernel(*entry.groups(), stack, stores + loads, int(registers[1])))
    return kernels


def main(path: str) -> int:
    kernels = read(Path(path).read_text())
    if not kernels:
        print("no kernel in the log: was it compiled with -Xptxas -v?")
        return 1
    wrong = [k for k in kernels if k.stack or k.spilled]
    for k in wrong:
        name = subprocess.run(["c++filt", k.name], capture_output=True, text=True, check=False).stdout.strip()
        print(f"{k.arch}: {name or k.name}: {k.stack} bytes of stack, {k.spilled} bytes spilled")
    most = max(k.registers for k in kernels)
    archs = ", ".join(sorted({k.arch for k in kernels}))
    print(f"{len(kernels)} kernels for {archs}: {len(wrong)} with a stack, at most {most} registers a thread")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
