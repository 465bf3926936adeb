"""Mixed precision, hook and bucketer: an overflow on one rank reaches the scaler on every rank. Two ranks."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from checks_bucketer import bucketer
from scene import MLP, Scene
from torch import nn

warnings.filterwarnings("ignore")


def overflow_is_skipped_everywhere(scene: Scene, codec: Any, kind: str) -> None:
    model = MLP()
    if kind == "bucketer":
        net: Any = model
        handle = bucketer(scene, model, codec)
    else:
        net, handle = scene.ddp(model, codec, {"bucket_cap_mb": 0.005})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = net(scene.batch(step)).square().mean()
        if step == 2 and scene.rank == 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        if kind == "bucketer":
            handle.wait()
        before = copy.deepcopy(model.state_dict())
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        moved = any(not torch.equal(before[n], v) for n, v in model.state_dict().items())
        assert moved == (step != 2), f"{codec}, {kind}, step {step}: moved {moved}"
        assert scaler.get_scale() == (1024.0 if step < 2 else 512.0), f"{codec}, step {step}"
        scene.same_everywhere(model)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    handle.close()


def check_an_overflow_reaches_the_scaler_on_every_rank(scene: Scene) -> None:
    for kind in ("hook", "bucketer"):
        for codec in (None, "bf16", "int8", "int4", "topk(ratio=0.1)"):
            overflow_is_skipped_everywhere(scene, codec, kind)
