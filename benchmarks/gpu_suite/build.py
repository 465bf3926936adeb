"""Installs gradwire with its plug-in, built for the GPU at hand alone, which takes a minute."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUILD_S = 300
ASKING_S = 30
SIMULATED = os.environ.get("GRADWIRE_GPU") == "sim"
_TRIAL = "import gradwire, numpy; gradwire.testing.to_gpu(numpy.zeros(1))"


def missing() -> str | None:
    """Why GPU arrays cannot be used, or None; of a new process, because an import cannot be undone."""
    done = subprocess.run(
        [sys.executable, "-c", _TRIAL], capture_output=True, text=True, timeout=ASKING_S, check=False
    )
    return (
        (done.stderr.strip().splitlines() or ["gradwire cannot be imported"])[-1] if done.returncode else None
    )


def asked(fields: str) -> str | None:
    """What nvidia-smi says of the first GPU; None if there is none."""
    if not shutil.which("nvidia-smi"):
        return None
    ask = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=ASKING_S, check=False)
    return None if done.returncode else (done.stdout.splitlines() or [None])[0]


def install() -> str | None:
    """`pip install .`; what went wrong, or None. Its output is shown: it is long."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", str(ROOT)]
    if importlib.util.find_spec("pybind11") and all(map(shutil.which, ("cmake", "ninja"))):
        command.insert(4, "--no-build-isolation")  # a GPU machine may reach no package index
    env = {**os.environ, "GRADWIRE_CUDA": "on"}
    capability = asked("compute_cap")
    if capability:
        env.setdefault("GRADWIRE_CUDA_ARCHS", capability.replace(".", ""))
    archs = env.get("GRADWIRE_CUDA_ARCHS", "every architecture")
    print(f"building gradwire for {archs}: {' '.join(command)}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, env=env, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        return f"pip install took more than {BUILD_S} s"
    return f"pip install ended with {done.returncode}" if done.returncode else None
