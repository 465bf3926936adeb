"""What only a real GPU shows: torch's streams, and futures that an event of one completes. Two ranks."""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from scene import MLP, Scene
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire.torch

warnings.filterwarnings("ignore")
CYCLES = 500_000_000  # about a quarter of a second


def state(scene: Scene, codec: Any) -> gradwire.torch.HookState:
    return gradwire.torch.HookState(scene.comm, codec, min_numel=1, dense_1d=False, may_be_unused=True)


def check_the_host_goes_on_while_the_gpu_still_makes_the_bucket(scene: Scene) -> None:
    for codec in (None, "int8"):
        of = state(scene, codec)
        param = nn.Parameter(torch.zeros(100_000, device="cuda"))
        of.start(0, torch.ones_like(param), [param]).wait()  # makes plans and memory, which may wait
        of.end_step()
        torch.cuda.synchronize()
        late = torch.zeros_like(param)
        torch.cuda._sleep(CYCLES)
        made = torch.cuda.Event()
        made.record()
        late.fill_(scene.rank + 1.0)
        future = of.start(0, late.detach(), [param])
        assert not made.query(), f"{codec}: starting a bucket waited for the GPU"
        future.wait()
        seen = late + 0  # on the caller's stream
        torch.cuda.synchronize()
        of.end_step()
        of.raise_error()
        torch.testing.assert_close(seen.cpu(), torch.full((100_000,), 1.5), atol=0.02, rtol=0)
        of.close()


def check_what_follows_on_the_waiters_stream_sees_the_average(scene: Scene) -> None:
    of = state(scene, "int8")
    param = nn.Parameter(torch.zeros(300_001, device="cuda"))
    streams = [torch.cuda.Stream() for _ in range(2)]
    for step in range(6):
        with torch.cuda.stream(streams[step % 2]):
            torch.cuda._sleep(CYCLES // 20)
            flat = torch.full((300_001,), float(step + scene.rank), device="cuda")
            future = of.start(0, flat, [param])
            future.wait()
            total = float(flat.double().mean())
            del flat, future
        of.end_step()
        of.raise_error()
        assert abs(total - (step + 0.5)) < 0.05, (step, total)
    of.close()


def check_backward_and_communication_overlap_in_a_trace(scene: Scene) -> None:
    ddp = DistributedDataParallel(MLP(1024, 2048, 12).cuda(), bucket_cap_mb=4)
    handle = gradwire.torch.attach(ddp, "int8", comm=scene.comm)
    x = torch.randn(512, 1024, device="cuda")
    for _ in range(3):
        ddp(x).square().mean().backward()
    torch.cuda.synchronize()
    path = scene.folder / f"gpu-trace{scene.rank}.json"
    with handle.trace(path) as trace:
        for _ in range(3):
            ddp(x).square().mean().backward()
        torch.cuda.synchronize()
    names = {e["name"].split(" ")[0] for e in json.loads(path.read_text())["traceEvents"]}
    assert {"backward", "bucket", "all_reduce"} <= names, names
    assert len(trace.buckets) >= 6
    for p in ddp.parameters():
        grad = p.grad.cpu()
        assert torch.equal(scene.sum(grad), 2 * grad.double()), "ranks differ"
    handle.close()


def check_scaled_losses_and_no_sync_on_a_gpu(scene: Scene) -> None:
    ddp = DistributedDataParallel(MLP().cuda(), bucket_cap_mb=0.005)
    handle = gradwire.torch.attach(ddp, "int8", comm=scene.comm, min_numel=64)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    for step in range(5):
        optimizer.zero_grad()
        with ddp.no_sync():
            scaler.scale(ddp(scene.batch(step).cuda()).square().mean()).backward()
        loss = ddp(scene.batch(step + 50).cuda()).square().mean()
        if step == 2 and scene.rank == 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == (1024.0 if step < 2 else 512.0), step
    for p in ddp.parameters():
        value = p.detach().cpu()
        assert bool(value.isfinite().all()) and torch.equal(scene.sum(value), 2 * value.double())
    handle.close()
