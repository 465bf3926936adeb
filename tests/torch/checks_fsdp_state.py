"""What FSDP2 and HSDP still owe, in and out of a checkpoint, of the same mesh and of others. Four ranks."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from checks_fsdp import Model, applied, assert_close, both_meshes, flat_mesh, sharded, train
from scene import Scene, refused
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

from gradwire.torch import CompressedColwiseParallel, CompressedRowwiseParallel


def check_a_state_resumes_bit_for_bit(scene: Scene) -> None:
    for mesh in (flat_mesh(scene), both_meshes(scene)):
        start = Model()
        model = sharded(copy.deepcopy(start), mesh)
        with applied(model, "int4", "bf16", "int4") as handle:
            train(scene, model, 2)
            kept, state = copy.deepcopy(model.state_dict()), handle.state_dict()
            want = train(scene, model, 2)
        again = sharded(copy.deepcopy(start), mesh)
        again.load_state_dict(kept)
        with applied(again, "int4", "bf16", "int4") as handle:
            handle.load_state_dict(state)
            assert_close(train(scene, again, 2), want, 0.0)


def check_with_tensor_parallelism_the_same_mesh_resumes_bit_for_bit_and_no_other(scene: Scene) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    start = Model()

    def cut() -> Any:
        model = copy.deepcopy(start)
        styles: Any = {
            "up": CompressedColwiseParallel(codec="int8"),
            "down": CompressedRowwiseParallel(codec="int8"),
        }
        for block in model.blocks:
            parallelize_module(block, mesh["tp"], styles)
        return sharded(model, mesh["dp"])

    model = cut()
    with applied(model, "int4", "bf16") as handle:
        train(scene, model, 2)
        kept, state = copy.deepcopy(model.state_dict()), handle.state_dict()
        want = train(scene, model, 2)
    again = cut()
    again.load_state_dict(kept)
    with applied(again, "int4", "bf16") as handle:
        handle.load_state_dict(state)
        assert_close(train(scene, again, 2), want, 0.0)
        whole = sharded(Model(), flat_mesh(scene))
        with applied(whole, "int4", "bf16") as other:
            refused("on the same mesh only", other.load_state_dict, state)
            refused("on the same mesh only", handle.load_state_dict, other.state_dict())


def owed(scene: Scene, state: dict[str, Any], replicas: int) -> dict[str, torch.Tensor]:
    """What all residuals add to the mean, by parameter."""
    sums: dict[str, Any] = {}
    for key, value in state.items():
        if key.startswith(f"rank{scene.rank}/"):
            name = key.split("/")[-1]
            parts = replicas if "/replicas/" in key else scene.size
            sums[name] = sums.get(name, 0) + value.double() / parts
    return {n: scene.sum(s) for n, s in sums.items()}


def check_another_mesh_owes_the_same_exactly(scene: Scene) -> None:
    """Values with few bits, so that nothing is rounded on the way."""
    meshes = [flat_mesh(scene), both_meshes(scene), both_meshes(scene, scene.size)]
    codecs = [("int4", None, "int4"), ("int4", None, None), (None, None, "int4")]
    made = []
    for mesh in meshes:
        for choice in codecs:
            model = sharded(Model(), mesh)
            with applied(model, *choice) as handle:
                state = handle.state_dict()
                keys = [k for k in state if k.startswith("rank")]
                draw = torch.Generator().manual_seed(scene.rank)
                for key in keys:
                    state[key] = torch.randint(-64, 64, state[key].shape, generator=draw).float()
                if not keys:
                    continue
                handle.load_state_dict(state)  # what lies outside a rank's own shard is not kept
                state = handle.state_dict()
            merged: list[Any] = [None] * scene.size
            dist.all_gather_object(merged, state)
            replicas = mesh.size(0) if mesh.ndim == 2 else 1
            made.append((owed(scene, state, replicas), {k: v for m in merged for k, v in m.items()}))
    for before, merged_state in made:
        for mesh in meshes:
            for choice in codecs:
                model = sharded(Model(), mesh)
                with applied(model, *choice) as handle:
                    if not any(k.startswith("rank") for k in handle.state_dict()):
                        continue
                    handle.load_state_dict(merged_state)
                    state = handle.state_dict()
                after = owed(scene, state, mesh.size(0) if mesh.ndim == 2 else 1)
                for name, value in before.items():
                    assert torch.equal(after[name], value), name
