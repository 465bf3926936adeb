"""torch.distributed's backend "gradwire" on real processes: a launch a world, every check a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks

pytest.importorskip("torch")


COLLECTIVES = " ".join(f"checks_process_group{part}" for part in ("_reductions", "_moves", "_works", ""))


@pytest.mark.parametrize("check", ranks.names(COLLECTIVES))
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_collectives(check: str, size: int) -> None:
    ranks.assert_ok(check, COLLECTIVES, size)


@pytest.mark.parametrize("check", ranks.names("checks_backend"))
def test_what_torch_builds_on_it(check: str) -> None:
    ranks.assert_ok(check, "checks_backend", 2)


@pytest.mark.parametrize("check", ranks.names("checks_carrier"))
@pytest.mark.parametrize("size", [2, 3])
def test_carrier(check: str, size: int) -> None:
    ranks.assert_ok(check, "checks_carrier", size)


# How a program ends: what it did with the group before, and whether it said goodbye.
ENDS = {
    "forgotten": "",
    "with work under way": "works = [dist.all_reduce(x, async_op=True).get_future() for _ in range(5)]",
    "destroyed and made again": "dist.destroy_process_group(); start(); dist.all_reduce(x); stop()",
}
PROGRAM = """
import sys, torch, torch.distributed as dist, gradwire.torch
import torch.distributed._functional_collectives as funcol
from torch.nn.parallel import DistributedDataParallel
def start():
    store = dist.FileStore(sys.argv[2], 2)
    dist.init_process_group("gradwire", rank=int(sys.argv[1]), world_size=2, store=store)
stop = dist.destroy_process_group
start()
ddp = DistributedDataParallel(torch.nn.Linear(4, 4))
ddp(torch.ones(2, 4)).sum().backward()
y = funcol.all_reduce(torch.ones(2), "sum", dist.group.WORLD)  # nobody waits for it
x = torch.ones(3)
dist.all_reduce(x)
assert x[0] == 2
"""


def run_program(end: str, store: Path) -> list[tuple[int, str]]:
    """(exit code, what it said) of both ranks."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    command = [sys.executable, "-c", PROGRAM + end]
    processes = [
        subprocess.Popen([*command, str(r), str(store)], env=env, stderr=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    try:
        said = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, words) for process, words in zip(processes, said)]


@pytest.mark.parametrize("end", ENDS)
def test_programs_end_cleanly(end: str, tmp_path: Path) -> None:
    for code, said in run_program(ENDS[end], tmp_path / "store"):
        assert code == 0, f"{code}: {said}"
        assert not any(word in said for word in ("Traceback", "terminate", "Fatal")), said


def test_a_killed_runs_keys_in_the_store_do_no_harm(tmp_path: Path) -> None:
    """torchrun's store survives a restart of the workers."""
    killed = run_program("import os; os.kill(os.getpid(), 9)", tmp_path / "store")
    assert [code for code, _ in killed] == [-9, -9], killed
    again = run_program("stop()", tmp_path / "store")
    assert [code for code, _ in again] == [0, 0], again
