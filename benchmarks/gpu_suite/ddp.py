"""A GPT under DDP with the hook, two processes on one GPU: what backward hides, and traces that show it.

Run by the suite; as a script it is one rank: ddp.py DEVICE CODEC FOLDER ROUNDS WIDTH
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RANKS = 2
CODEC = "int8"
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def rows(device: str, folder: Path, seconds: float) -> Iterator[Row]:
    """One row, and Chrome traces in `folder`. device: "cuda", or "cpu" for a model of a few parameters."""
    from gradwire.testing import run_processes

    rounds, width = ("15", "512") if device == "cuda" else ("2", "32")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (device, CODEC, str(folder), rounds, width)
    done = run_processes(RANKS, __file__, *arguments, timeout=seconds, env={"OMP_NUM_THREADS": "1"})
    found = [json.loads(process.stdout.strip().splitlines()[-1]) for process in done]
    times = found[0]["seconds"]
    middle = {what: statistics.median(taken) for what, taken in times.items()}
    saved = middle["compute"] + middle["communication"] - middle["step"]
    yield {
        "part": "ddp",
        "entry": f"DDP, {RANKS} ranks on one {device}",
        "stage": "step",
        "codec": CODEC,
        "ranks": RANKS,
        "size": 4 * found[0]["parameters"],
        "count": found[0]["parameters"],
        "time_us": middle["step"] * 1e6,
        "seconds": times,
        "hidden": saved / min(middle["compute"], middle["communication"]) if device == "cuda" else None,
        "wrong": len({one["digest"] for one in found}) - 1,
        "skipped": None,
        "traces": found[0]["traces"],
    }


def worker(device: str, codec: str, folder: Path, rounds: int, width: int) -> Row:
    """This rank's times, and a digest of its parameters, which all ranks must end with."""
    import torch
    import torch.distributed as dist
    from byte_gpt import ByteGPT, Text
    from torch.nn.parallel import DistributedDataParallel

    import gradwire.torch

    rank = dist.get_rank()
    torch.manual_seed(0)
    model = ByteGPT(width=width, layers=5).to(device)
    ddp = DistributedDataParallel(model, bucket_cap_mb=4)
    handle = gradwire.torch.attach(ddp, codec)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    x, y = (t.to(device) for t in Text.of_stdlib().batch(0, 0, rank, 8, 128))

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def step() -> None:
        optimizer.zero_grad()
        ddp(x, y).backward()
        optimizer.step()

    def compute() -> None:
        with ddp.no_sync():
            step()

    for _ in range(3):  # DDP regroups its buckets after the first
        step()
    traces = [str(folder / f"gpu_suite_hook_rank{rank}.json")]
    with handle.trace(traces[0]) as recorded:
        step()
        step()
        wait()
    if device == "cuda":
        # kernels on their streams, which the hook's own trace cannot see
        traces.append(str(folder / f"gpu_suite_kernels_rank{rank}.json"))
        with torch.profiler.profile() as profile:
            step()
            step()
            wait()
        profile.export_chrome_trace(traces[1])
    sizes = [numel for _, _, _, numel in recorded.buckets]
    buckets = [torch.randn(numel, device=device) for numel in sizes[: len(sizes) // 2]]

    def communicate() -> None:
        works = [handle.comm.all_reduce(b, op="avg", codec=codec, async_op=True) for b in buckets]
        for work in works:
            work.wait()

    ways: dict[str, Callable[[], None]] = {"compute": compute, "communication": communicate, "step": step}
    times: dict[str, list[float]] = {what: [] for what in ways}
    for _ in range(rounds):
        for what, run in ways.items():
            wait()
            dist.barrier()
            begin = time.perf_counter()
            run()
            wait()
            times[what].append(time.perf_counter() - begin)
    # what no_sync() let drift apart is not the hook's: all ranks begin again alike
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)
    for _ in range(3):
        step()
    wait()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    handle.close()
    parameters = sum(p.numel() for p in model.parameters())
    return {"seconds": times, "parameters": parameters, "digest": digest.hexdigest(), "traces": traces}


def main() -> int:
    import torch.distributed as dist

    device, codec, folder, rounds, width = sys.argv[1:]
    sys.path.insert(0, str(EXAMPLES))
    import gradwire.torch

    gradwire.torch.init_process_group("gloo")
    found = worker(device, codec, Path(folder), int(rounds), int(width))
    dist.destroy_process_group()
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
