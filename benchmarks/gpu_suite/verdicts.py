"""Other programs' verdicts: compute-sanitizer over the small checks, pytest over the GPU tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu_suite.arrays import installed

TOOLS = ("memcheck", "racecheck")
ERROR_CODE = 9  # of the sanitizer, so that it is told from the checks' own 1


def sanitizer_rows(
    timeout: float, codecs: Sequence[str] = ("int8", "int4", "rotated4", "topk")
) -> Iterator[dict[str, Any]]:
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    for tool in TOOLS:
        what = {
            "part": "check",
            "entry": f"compute-sanitizer {tool}",
            "codec": ",".join(codecs),
            "dtype": None,
        }
        if not found:
            yield {**what, "compared": 0, "wrong": None, "skipped": "compute-sanitizer is not installed"}
            continue
        script = str(Path(__file__).with_name("small.py"))
        command = [found, "--tool", tool, "--error-exitcode", str(ERROR_CODE)]
        command += [sys.executable, script, *codecs]
        yield {**what, **verdict(command, timeout)}


def tests_row(timeout: float) -> dict[str, Any]:
    """The GPU tests of the repository, this suite's own excepted."""
    what = {"part": "check", "entry": "tests/cuda", "codec": None, "dtype": None}
    if not installed("pytest"):
        return {**what, "compared": 0, "wrong": None, "skipped": "pytest is not installed"}
    folder = Path(__file__).parent.parent.parent / "tests" / "cuda"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(folder)]
    return {**what, **verdict([*command, f"--ignore={folder / 'test_gpu_suite.py'}"], timeout)}


def verdict(command: list[str], timeout: float) -> dict[str, Any]:
    """compared, wrong and skipped of a command that ends with 0 if all is well."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"compared": 0, "wrong": None, "skipped": f"not done after {timeout:.0f} s"}
    last = ([line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or [""])[-1]
    if done.returncode in (0, 1, ERROR_CODE):
        return {"compared": 1, "wrong": int(done.returncode != 0), "skipped": None, "said": last[:200]}
    return {"compared": 0, "wrong": None, "skipped": f"it ended with {done.returncode}: {last[:150]}"}
