"""The scripts that a newcomer runs first: examples/*.py and benchmarks/demo.py, with few steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 100.0


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def example(name: str, *arguments: str, ranks: int = 2) -> str:
    return run(*TORCHRUN, str(ranks), str(ROOT / "examples" / name), *arguments)


def test_the_ddp_example_trains() -> None:
    out = example("ddp_gpt.py", "--codec", "int8", "--steps", "5")
    assert "held-out loss" in out and "times less than dense" in out


def test_the_local_sgd_example_trains() -> None:
    out = example("local_sgd.py", "--every", "2", "--steps", "5")
    assert "step    4" in out and "held-out loss" in out and "times less than dense" in out


def test_the_vision_example_learns() -> None:
    pytest.importorskip("sklearn")
    out = example("ddp_vision.py", "--epochs", "3")
    assert float(out.split("held-out accuracy ")[1].split("%")[0]) > 90
    assert float(out.split(" sent a step, ")[1].split()[0]) > 5


def test_the_tensor_parallel_example_trains() -> None:
    out = example("tensor_parallel_gpt.py", "--codec", "int8", "--steps", "5")
    assert "held-out loss" in out and "int8(block=128)" in out


@pytest.mark.slow
def test_the_hybrid_example_on_eight_ranks_equals_one_process() -> None:
    out = example("hybrid_gpt.py", "--check", "--steps", "2", ranks=8)
    assert float(out.split("largest difference from one process: ")[1].split()[0]) < 1e-12
    assert [line.split()[0] for line in out.splitlines()[-5:-1]] == ["pp", "pp", "dp", "tp"]


def test_the_fsdp_example_trains() -> None:
    out = example("fsdp_gpt.py", "--replicas", "2", "--layers", "1", "--steps", "3")
    assert "held-out loss" in out and "all_reduce" in out


def test_the_numpy_example_converges() -> None:
    out = example("raw_numpy.py")
    assert "replicas are bit-identical: True" in out
    assert float(out.split("relative error ")[1].split()[0]) < 1e-3


@pytest.mark.slow
def test_two_demos_with_one_seed_end_with_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    hashes: list[dict[str, Any]] = []
    for name in ("a", "b"):
        run(
            str(ROOT / "benchmarks" / "demo.py"),
            "--steps",
            "4",
            "--batch",
            "2",
            "--out",
            str(tmp_path / name),
        )
        results = [json.loads(line) for line in (tmp_path / name / "demo.jsonl").read_text().splitlines()]
        assert [r["codec"] for r in results] == ["dense", "int8", "int4", "top-k 1 %"]
        for r in results:
            assert len(set(r["hashes"])) == 1, f"{r['codec']}: replicas differ"
            assert r["kernel_bytes_all_ranks"] == pytest.approx(r["reported_bytes_all_ranks"], rel=0.05)
        hashes.append({r["codec"]: r["hashes"][0] for r in results})
        assert (tmp_path / name / "demo.png").stat().st_size > 10_000
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == 4, "two codecs gave the same model: were they used?"
