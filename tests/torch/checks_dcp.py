"""Residuals through torch.distributed.checkpoint on two ranks."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from scene import MLP, Scene, digest, refused
from torch.distributed.fsdp import fully_shard

import gradwire
from gradwire.torch import GradientBucketer, Stateful, fsdp


def averaged(scene: Scene, model: Any, kind: str) -> tuple[Any, Any]:
    """(what to train, its handle)"""
    if kind == "hook":
        return scene.ddp(model, "int4")
    return model, GradientBucketer(model.named_parameters(), scene.comm, "int4", min_numel=64)


def train(scene: Scene, model: Any, handle: Any, steps: range) -> str:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in steps:
        optimizer.zero_grad()
        model(scene.batch(step)).square().mean().backward()
        if isinstance(handle, GradientBucketer):
            handle.wait()
        optimizer.step()
    return digest(model) if handle is not None else ""


def check_saved_and_resumed_training_ends_with_the_same_bits(scene: Scene) -> None:
    for kind, save in itertools.product(("bucketer", "hook"), (dcp.save, dcp.async_save)):
        folder = scene.folder / f"{kind}-{save.__name__}"
        model = MLP()
        net, handle = averaged(scene, model, kind)
        with handle:
            train(scene, net, handle, range(3))
            state = {"model": model.state_dict(), "gradwire": Stateful(handle)}
            pending: Any = save(state, checkpoint_id=folder)
            want = train(scene, net, handle, range(3, 6))  # async: what is saved must not change now
            if pending is not None and hasattr(pending, "result"):
                pending.result()
        dist.barrier()
        again = MLP()
        net, handle = averaged(scene, again, kind)
        with handle:
            for saved_in in (None, folder):
                kept = {"model": again.state_dict(), "gradwire": Stateful(handle, saved_in)}
                dcp.load(kept, checkpoint_id=folder)
            again.load_state_dict(kept["model"])
            assert train(scene, net, handle, range(3, 6)) == want, (kind, save.__name__)


def check_one_rank_takes_what_two_saved(scene: Scene) -> None:
    """Whole numbers in the residuals: their mean is exact."""
    folder = scene.folder / "two"
    model = MLP()
    with GradientBucketer(model.named_parameters(), scene.comm, "int4", min_numel=64) as bucketer:
        state = bucketer.state_dict()
        for key in [k for k in state if k.startswith("rank")]:
            draw = torch.Generator().manual_seed(scene.rank)
            state[key] = torch.randint(-64, 64, state[key].shape, generator=draw).float()
        bucketer.load_state_dict(state)
        dcp.save({"gradwire": Stateful(bucketer)}, checkpoint_id=folder)
    want = {k.split("/")[1]: scene.sum(v) / 2 for k, v in state.items() if k.startswith("rank")}
    dist.barrier()
    alone = gradwire.init(rank=0, size=1)
    with GradientBucketer(MLP().named_parameters(), alone, "int4", min_numel=64) as bucketer:
        dcp.load({"gradwire": Stateful(bucketer, folder)}, checkpoint_id=folder, no_dist=True)
        got = bucketer.state_dict()
    alone.close()
    assert want
    for name, mean in want.items():
        assert torch.equal(got[f"rank0/{name}"].double(), mean), name


def check_fsdp_resumes_with_the_same_bits(scene: Scene) -> None:
    folder, start, ends = scene.folder / "fsdp", MLP(), []
    for resume in (False, True):
        model: Any = fully_shard(copy.deepcopy(start))
        handle = fsdp.apply(model, "int4", "bf16", min_numel=0)
        state = {"model": model.state_dict(), "gradwire": Stateful(handle, folder if resume else None)}
        if resume:
            dcp.load(state, checkpoint_id=folder)
            model.load_state_dict(state["model"])
        else:
            train(scene, model, None, range(3))
            state["model"] = model.state_dict()
            dcp.save(state, checkpoint_id=folder)
        train(scene, model, None, range(3, 6))
        ends.append([p.full_tensor() for p in model.parameters()])
        dist.barrier()
        handle.close()
    assert all(torch.equal(a, b) for a, b in zip(*ends))


def check_a_checkpoint_without_it_is_refused(scene: Scene) -> None:
    folder = scene.folder / "none"
    dcp.save({"x": torch.ones(1)}, checkpoint_id=folder)
    with GradientBucketer(MLP().named_parameters(), scene.comm) as bucketer:
        refused("has nothing under 'gradwire'", Stateful(bucketer, folder).state_dict)
