"""Engines other than ours: carriers and pipelines over MPI, UCC and NCCL, where torch has them.

A build of torch for CPUs has none of the three, and says so here. Gloo is always there, and shows that the
program itself is right.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402

PROGRAM = """
import sys
import numpy as np
import torch, torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel
import gradwire, gradwire.torch

backend, folder = sys.argv[1:3]
if backend == "mpi":
    dist.init_process_group("mpi")
else:
    rank = int(sys.argv[3])
    dist.init_process_group(backend, rank=rank, world_size=2, store=dist.FileStore(folder + "/store", 2))
rank = dist.get_rank()
device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)

def of(r):
    return torch.randn(5001, generator=torch.Generator().manual_seed(r)).to(device)

def everyones(x):
    found = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(found, x)
    return found

carrier = gradwire.torch.Carrier(dist.new_group())
exact = of(0) + of(1)
x = of(rank)
carrier.all_reduce(x)
assert torch.equal(x, exact)
ddp = DistributedDataParallel(torch.nn.Linear(64, 64).to(device))
x, owed = of(rank), torch.zeros(5001, device=device)
carrier.all_reduce(x, codec="int8", residual=owed)
a, b = everyones(x)
assert torch.equal(a, b) and not torch.equal(x, exact)
lost = sum(everyones(owed))
assert (x + lost - exact).abs().max() < 1e-5  # loss is conserved
if device.type == "cuda":  # the CPU's bits
    beside = gradwire.torch.Carrier(dist.new_group(backend="gloo"))
    y, owes = of(rank).cpu(), torch.zeros(5001)
    beside.all_reduce(y, codec="int8", residual=owes)
    assert torch.equal(x.cpu(), y) and torch.equal(owed.cpu(), owes)
    beside.close()
# what a bucketer tells the other ranks lies in host memory
assert carrier.broadcast(np.array([rank + 5]), root=1).tolist() == [6]
assert carrier.all_reduce(np.array([rank, 1], np.uint8), op="max").tolist() == [1, 1]
handle = gradwire.torch.attach(ddp, "int8", carrier=dist.new_group(), min_numel=64)
for step in range(3):
    ddp.zero_grad()
    ddp(of(rank)[:4992].view(-1, 64)).square().mean().backward()
    a, b = everyones(ddp.module.weight.grad)
    assert torch.equal(a, b)
assert handle.stats().ratio > 2
handle.close()
carrier.close()

torch.manual_seed(0)
parts = [torch.nn.Linear(8, 8).to(device) for _ in range(2)]
stage = PipelineStage(parts[rank], rank, 2, device)
link = gradwire.torch.pipeline.apply(stage, *(["int8"] * 2 if device.type == "cpu" else []))
batch = torch.ones(4, 8, device=device)
schedule = Schedule1F1B(stage, 2, loss_fn=lambda out, target: (out - target).square().sum())
out = schedule.step(*([batch] if rank == 0 else []), target=batch)
if rank == 1:
    assert (out - parts[1](parts[0](batch))).abs().max() < 0.05
assert link.forward.sends == (2 if rank == 0 else 0)
dist.destroy_process_group()
print("done", rank)
"""


def missing(backend: str) -> str:
    """Why it cannot be tried here; empty if it can."""
    if not getattr(dist, f"is_{backend}_available")():
        return f"torch {torch.__version__} was built without {backend.upper()}"
    if backend == "mpi" and shutil.which("mpirun") is None:
        return "MPI needs mpirun, which is not on the PATH"
    if backend == "nccl" and torch.cuda.device_count() < 2:
        return f"NCCL needs a GPU for each of 2 ranks, found {torch.cuda.device_count()}"
    return ""


@pytest.mark.parametrize("backend", ["gloo", "mpi", "ucc", "nccl"])
def test_carriers_and_pipelines_over(backend: str, tmp_path: Path) -> None:
    if why := missing(backend):
        pytest.skip(why)
    command = [sys.executable, "-c", PROGRAM, backend, str(tmp_path)]
    if backend == "mpi":
        commands = [["mpirun", "-n", "2", *command]]
    else:
        commands = [[*command, str(rank)] for rank in range(2)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(c, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for c in commands
    ]
    try:
        said = [run.communicate(timeout=100)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.wait(10)
    whole = "\n".join(said)
    assert all(run.returncode == 0 for run in runs) and whole.count("done") == 2, whole
