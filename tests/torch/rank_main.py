"""One rank of ranks.run(): calls every check of some modules and writes down how each ended."""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import names
from scene import Scene

import gradwire


def main() -> None:
    modules, folder, size, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    faulthandler.dump_traceback_later(100, exit=True)  # a hang says where, before the launcher's deadline
    torch.set_num_threads(1)
    files = [importlib.import_module(module) for module in modules.split()]
    checks = {name: check for file in reversed(files) for name, check in vars(file).items()}
    dist.init_process_group(
        checks.get("BACKEND", "gloo"),
        rank=rank,
        world_size=size,
        store=dist.FileStore(f"{folder}/torch", size),
        timeout=timedelta(seconds=60),
    )
    comm = gradwire.init(rank=rank, size=size, store=f"file://{folder}/gradwire", timeout=20)
    scene = Scene(rank, size, comm, folder)
    with open(folder / f"done{rank}", "w", encoding="utf-8", buffering=1) as done:
        for name in names(modules):
            try:
                torch.manual_seed(0)
                function, *cell = name.split()
                checks[function](scene, *cell)
                outcome = "ok"
            except Exception:
                outcome = traceback.format_exc()
            done.write(json.dumps([name, outcome]) + "\n")
    comm.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
