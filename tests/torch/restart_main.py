"""A job under torchrun that loses a rank to SIGKILL, is restarted, and goes on from its last checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from scene import MLP, digest

import gradwire
from gradwire.torch import GradientBucketer

STEPS, KILLED_AT = 6, 4


def train(folder: Path, comm: gradwire.Communicator, may_die: bool) -> str:
    """Saves after every step; starts where every rank has a checkpoint."""
    torch.manual_seed(0)
    model = MLP()
    with GradientBucketer(model.named_parameters(), comm, "int4", min_numel=64) as bucketer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        mine = [p for s in range(STEPS) if (p := folder / f"{s}-rank{comm.rank}.pt").exists()]
        done = torch.tensor([len(mine)])
        comm.all_reduce(done, op="min")
        first = int(done)
        if first:
            saved = torch.load(folder / f"{first - 1}-rank{comm.rank}.pt", weights_only=True)
            model.load_state_dict(saved["model"])
            bucketer.load_state_dict(saved["gradwire"])
        for step in range(first, STEPS):
            if may_die and first == 0 and step == KILLED_AT and comm.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            x = torch.randn(4, 32, generator=torch.Generator().manual_seed(100 * step + comm.rank))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            bucketer.wait()
            optimizer.step()
            state = {"model": model.state_dict(), "gradwire": bucketer.state_dict()}
            torch.save(state, folder / f"draft{comm.rank}")
            os.replace(folder / f"draft{comm.rank}", folder / f"{step}-rank{comm.rank}.pt")
        print(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} began at step {first}", flush=True)
    return digest(model)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    (folder / "whole").mkdir(exist_ok=True)
    with gradwire.init(timeout=20) as comm:
        resumed = train(folder, comm, may_die=True)
        assert resumed == train(folder / "whole", comm, may_die=False), "resuming changed the parameters"
        print("resumed training equals uninterrupted training", flush=True)


if __name__ == "__main__":
    main()
