"""examples/frameworks/*.py under the frameworks themselves, on CPU; skipped where one is not installed.

`pip install -r tools/requirements-frameworks.txt` brings them; examples/frameworks/README.md has a table.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
FOLDER = Path(__file__).parent.parent.parent / "examples" / "frameworks"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
pytestmark = pytest.mark.slow


def run(framework: str, *words: str, **env: str) -> str:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed: pip install -r tools/requirements-frameworks.txt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        capture_output=True, text=True, timeout=110, check=False, env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_accelerate() -> None:
    out = run("accelerate", *TORCHRUN, "2", str(FOLDER / "accelerate_gpt.py"), "--steps", "4")
    assert "2 averages, 3.8 times less than dense" in out


def test_lightning() -> None:
    out = run("lightning", str(FOLDER / "lightning_gpt.py"), "--steps", "3")
    assert "3 averages, 3.8 times less than dense" in out


def test_ray_train() -> None:
    # Ray gives its workers the lowest priority: beside other load they hardly run at all.
    out = run("ray", str(FOLDER / "ray_gpt.py"), "--steps", "2", RAY_worker_niceness="0")
    assert "3.8 times less than dense" in out


def test_deepspeed() -> None:
    script = [*TORCHRUN, "2", str(FOLDER / "deepspeed_gpt.py"), "--steps", "2"]
    out = run("deepspeed", *script, DS_ACCELERATOR="cpu")
    assert "after 2 steps over gradwire" in out


def test_torchtitan() -> None:
    out = run("torchtitan", *TORCHRUN, "2", str(FOLDER / "torchtitan_pipeline.py"), "--steps", "2")
    assert "gradients 3.9 times less than dense" in out


def test_megatron_core_gives_the_loss_of_gloo_and_another_with_a_codec() -> None:
    script = [*TORCHRUN, "4", str(FOLDER / "megatron_layers.py"), "--steps", "3"]
    gloo, exact, coded = (
        run("megatron", *script, *how)
        for how in (["--backend", "gloo"], ["--codec", "none"], ["--codec", "int8"])
    )
    losses = [float(out.split("loss ")[1].split(",")[0]) for out in (gloo, exact, coded)]
    assert losses[0] == losses[1] != losses[2]
    assert abs(losses[2] / losses[0] - 1) < 0.01
    assert "replicas equal: True, over gradwire" in coded
