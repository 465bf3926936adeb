"""Runs files of checks on real ranks: one process per rank, gloo for torch, gradwire beside it.

A check is a function `check_...(ctx)` that every rank calls in the same order; they share a launch because
importing torch costs more than most of them. Every launch has a deadline. `modules`: one file of checks, or
several with spaces between, of one BACKEND."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# What every row of the parity matrix is tried with.
CODECS, DTYPES = ("none", "int8", "int4"), ("float32", "bfloat16")


def names(modules: str) -> list[str]:
    """The checks, without importing their files (they import torch). A row of the parity matrix, `def
    row_...(scene, codec, dtype)`, is a check for every codec and dtype: "row_ddp int8 float32"."""
    files = [HERE / f"{module}.py" for module in modules.split()]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    found = [line[4 : line.index("(")] for line in lines if line.startswith(("def check_", "def row_"))]
    cells = [f" {codec} {dtype}" for codec in CODECS for dtype in DTYPES]
    return [name + cell for name in found for cell in (cells if name.startswith("row_") else [""])]


@functools.cache
def run(modules: str, size: int, tolerate: tuple[int, ...], deadline_s: float) -> dict[str, Any]:
    """{check: {rank: "ok" or a traceback}}. Ranks in `tolerate` may die; they are missing from the answer."""
    with tempfile.TemporaryDirectory(prefix="gradwire-ranks-") as folder:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, str(HERE / "rank_main.py"), modules, folder, str(size)]
        logs = [open(Path(folder) / f"log{r}", "wb") for r in range(size)]  # noqa: SIM115
        ranks = [
            subprocess.Popen([*command, str(r)], env=env, stdout=logs[r], stderr=subprocess.STDOUT)
            for r in range(size)
        ]
        end = time.monotonic() + deadline_s
        try:
            for p in ranks:
                p.wait(timeout=max(0.1, end - time.monotonic()))
            late = ""
        except subprocess.TimeoutExpired:
            late = f"not done after {deadline_s} s; "
        finally:
            for p in ranks:
                p.kill()
                p.wait()
            for log in logs:
                log.close()
        answers: dict[str, Any] = {}
        for r, p in enumerate(ranks):
            if r in tolerate:
                continue
            lines = (Path(folder) / f"log{r}").read_text(errors="replace")
            done = Path(folder) / f"done{r}"
            reported = [json.loads(x) for x in done.read_text().splitlines()] if done.exists() else []
            for name, outcome in reported:
                answers.setdefault(name, {})[r] = outcome
            for name in names(modules):
                answers.setdefault(name, {}).setdefault(
                    r, f"{late}exit {p.returncode}, not reached\n{lines[-3000:]}"
                )
        return answers


def assert_ok(
    check: str, modules: str, size: int, tolerate: tuple[int, ...] = (), deadline_s: float = 110.0
) -> None:
    """The check ended well on every rank. One launch of these modules does for all their checks."""
    answer = run(modules, size, tolerate, deadline_s)[check]
    bad = {rank: text for rank, text in answer.items() if text != "ok"}
    assert not bad, "\n".join(f"--- rank {rank}\n{text}" for rank, text in bad.items())
