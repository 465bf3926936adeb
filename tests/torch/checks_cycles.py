"""Init, train, destroy, 200 times: no thread, descriptor, mapping or memory is left. Two ranks."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import torch
from scene import MLP, Scene
from torch.nn.parallel import DistributedDataParallel

import gradwire.torch

warnings.filterwarnings("ignore")


def held() -> dict[str, int]:
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shared segments": sum("memfd" in line or "/dev/shm" in line for line in maps),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def check_200_cycles_leave_nothing_behind(scene: Scene) -> None:
    def cycle(i: int) -> None:
        model = MLP()
        if i % 2:
            ddp = DistributedDataParallel(model)
            with gradwire.torch.attach(ddp, "int8", transport=("tcp", "auto")[i % 4 == 1], min_numel=64):
                ddp(scene.batch(i)).square().mean().backward()
        else:
            with gradwire.torch.GradientBucketer(model.parameters(), codec="int4", min_numel=64) as bucketer:
                model(scene.batch(i)).square().mean().backward()
                bucketer.wait()

    for i in range(40):
        cycle(i)
    before = held()
    for i in range(200):
        cycle(i)
    after = held()
    for what in ("threads", "descriptors", "shared segments"):
        assert after[what] <= before[what], f"{what}: {before[what]} before, {after[what]} after 200 cycles"
    grown = after["memory"] - before["memory"]
    # torch's own DDP keeps a few hundred bytes an instance; one leaked channel alone would be 200 x 0.5 MiB
    assert grown < 16 << 20, f"memory grew by {grown / 2**20:.1f} MiB"
    scene.sum(torch.zeros(1))
