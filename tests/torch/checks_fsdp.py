"""FSDP2 and HSDP on four ranks: against torch's own collectives, and the laws that coded ones must keep."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from scene import Scene, raises, refused
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

import gradwire
from gradwire.torch import fsdp

WIDTH, HIDDEN = 32, 50  # 50 rows over 4 ranks: padded
# One encode is off by at most this share of the block's largest magnitude (csrc/codec/quant.hpp).
STEP = {"int8": 2**-7 + 2**-8, "int4": 2**-3 + 2**-8}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.spare = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, spare: bool = True) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x + self.spare(x) if spare else x).float().square().mean()


def flat_mesh(scene: Scene) -> DeviceMesh:
    return init_device_mesh("cpu", (scene.size,))


def both_meshes(scene: Scene, replicas: int = 2) -> DeviceMesh:
    shape = (replicas, scene.size // replicas)
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))


def pair_mesh(scene: Scene) -> DeviceMesh:
    return both_meshes(scene)["shard"]


def sharded(model: nn.Module, mesh: DeviceMesh, **options: Any) -> Any:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def grads(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.full_tensor().clone() for n, p in model.named_parameters() if p.grad is not None}


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.full_tensor().clone() for n, p in model.named_parameters()}


@contextmanager
def applied(model: nn.Module, *codecs: Any, **options: Any) -> Iterator[fsdp.Handle]:
    handle = fsdp.apply(model, *codecs, **{"min_numel": 0, **options})
    try:
        yield handle
    finally:
        dist.barrier()
        handle.close()


def train(
    scene: Scene,
    model: Any,
    steps: int = 3,
    accumulate: int = 1,
    *,
    all_reduce_last: bool = False,
    make: Any = torch.optim.AdamW,
) -> list[Any]:
    """Gradients of every step, and the parameters at the end."""
    optimizer = make(model.parameters(), lr=1e-2)
    seen: list[Any] = []
    for step in range(steps):
        for part in range(accumulate):
            last = part == accumulate - 1
            if all_reduce_last:
                model.set_requires_all_reduce(last)
            else:
                model.set_requires_gradient_sync(last)
            model(scene.batch(step * accumulate + part, (4, WIDTH))).backward()
        seen.append(grads(model))
        optimizer.step()
        optimizer.zero_grad()
    return [*seen, whole(model)]


def assert_close(got: list[Any], want: list[Any], tolerance: float) -> None:
    """tolerance: a share of each tensor's largest value."""
    for a, b in zip(got, want):
        assert a.keys() == b.keys()
        for name in a:
            error, largest = (a[name] - b[name]).abs().max(), b[name].abs().max()
            assert error <= tolerance * largest, f"{name}: off by {error}, the largest value is {largest}"


def assert_like_torch(scene: Scene, mesh: DeviceMesh, tolerance: float, **how: Any) -> None:
    options = how.pop("shard", {})
    start = Model()
    plain, ours = (sharded(copy.deepcopy(start), mesh, **options) for _ in range(2))
    with applied(ours, None, None, None) as handle:
        assert_close(train(scene, ours, **how), train(scene, plain, **how), tolerance)
        assert handle.stats().calls["reduce_scatter"] and handle.stats().calls["all_gather"]


def check_without_codecs_two_shards_are_torchs_bit_for_bit(scene: Scene) -> None:
    for options in (
        {},
        {"reshard_after_forward": False},
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)},
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)},
    ):
        assert_like_torch(scene, pair_mesh(scene), 0.0, shard=options)
    assert_like_torch(scene, pair_mesh(scene), 0.0, accumulate=3)


def check_without_codecs_four_uneven_shards_are_torchs(scene: Scene) -> None:
    """But for the order of sums. SGD: AdamW divides a gradient's last digit by the gradient."""
    for options in ({}, {"reshard_after_forward": 2}):
        assert_like_torch(scene, flat_mesh(scene), 1e-6, make=torch.optim.SGD, shard=options)


def check_without_codecs_hsdp_is_torchs_bit_for_bit(scene: Scene) -> None:
    assert_like_torch(scene, both_meshes(scene), 0.0)
    assert_like_torch(scene, both_meshes(scene), 0.0, accumulate=2, all_reduce_last=True)


def check_divide_factors_mean_what_torch_says(scene: Scene) -> None:
    """Against gradients divided by hand: gloo has no PREMUL_SUM."""
    start = Model()
    for factor, force, dtype in (
        (3.0, False, None), (float(scene.size), False, None), (None, True, None), (5.0, True, None),
        (None, False, torch.float16),
    ):  # fmt: skip
        for mesh in (flat_mesh(scene), both_meshes(scene)):
            model = sharded(copy.deepcopy(start), mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=dtype))
            if factor is not None:
                for module in model.modules():
                    if isinstance(module, FSDPModule):
                        module.set_gradient_divide_factor(factor)
            model.set_force_sum_reduction_for_comms(force)
            local = copy.deepcopy(start)
            local(scene.batch(0, (4, WIDTH))).backward()
            with applied(model, None, None, None):
                model(scene.batch(0, (4, WIDTH))).backward()
                got = grads(model)
            for name, p in local.named_parameters():
                want = scene.sum(p.grad) / (factor or scene.size)
                close = {"rtol": 1e-5, "atol": 1e-6} if dtype is None else {"rtol": 2e-2, "atol": 2e-3}
                torch.testing.assert_close(got[name].double(), want, **close)


def check_coded_gradients_stay_within_the_codecs_bound(scene: Scene) -> None:
    start = Model()
    local = copy.deepcopy(start)
    local(scene.batch(0, (4, WIDTH))).backward()
    largest = max(float(p.grad.abs().max()) for p in local.parameters())
    everyones: list[Any] = [None] * scene.size
    dist.all_gather_object(everyones, largest)
    top = max(everyones)
    for codec, step in STEP.items():
        for mesh, bound in (
            (flat_mesh(scene), step * top),  # every rank encodes what the others own, once
            # then each replica encodes its mean, and the owner the mean of those that it decoded
            (both_meshes(scene), step * top + step * top * (1 + step) + step * top * (1 + step) ** 2),
        ):
            model = sharded(copy.deepcopy(start), mesh)
            with applied(model, codec, None, codec):
                model(scene.batch(0, (4, WIDTH))).backward()
                got = grads(model)
            errors = [
                float((got[n].double() - scene.sum(p.grad) / scene.size).abs().max())
                for n, p in local.named_parameters()
            ]
            assert 0 < max(errors) <= bound, f"{codec}: {max(errors)} > {bound}"


def assert_conserves(scene: Scene, mesh: DeviceMesh, residual: str = "fp32", **options: Any) -> None:
    """Mean of all local gradients == sum of what was received + what the residuals still owe to the mean."""
    start = Model()
    local, model = copy.deepcopy(start), sharded(copy.deepcopy(start), mesh, **options)
    produced = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in local.named_parameters()}
    received = copy.deepcopy(produced)
    with applied(model, "int4", None, "int4", residual=residual) as handle:
        for step in range(4):
            for m in (local, model):
                m.zero_grad()
                m(scene.batch(step, (4, WIDTH)), spare=step != 2).backward()  # step 2 travels exactly
            for n, p in local.named_parameters():
                produced[n] += 0 if p.grad is None else p.grad
            for n, g in grads(model).items():
                received[n] += g
        state = handle.state_dict()
    owed = 0.0
    close = 2e-5 if residual == "fp32" else 2e-3
    for name, mine in produced.items():
        want = scene.sum(mine) / scene.size
        left = scene.sum(state[f"rank{scene.rank}/{name}"]) / scene.size
        if mesh.ndim == 2:
            left = left + scene.sum(state[f"rank{scene.rank}/replicas/{name}"]) / mesh.size(0)
        error = float((want - received[name] - left.view(want.shape)).abs().max() / want.abs().max())
        assert error < close, f"{name}: {error} of the gradients' sum is gone"
        owed = max(owed, float(left.abs().max()))
    assert owed > 0, "the codec lost nothing: this check checked nothing"


def check_nothing_is_lost_over_shards(scene: Scene) -> None:
    assert_conserves(scene, flat_mesh(scene))
    assert_conserves(scene, flat_mesh(scene), "int8")


def check_nothing_is_lost_over_shards_and_replicas(scene: Scene) -> None:
    assert_conserves(scene, both_meshes(scene))


def check_all_ranks_gather_the_same_parameters(scene: Scene) -> None:
    for codec in (None, "bf16", "int8"):
        for mesh in (flat_mesh(scene), both_meshes(scene)):
            model = sharded(Model(), mesh)
            with applied(model, "int8", codec) as handle:
                train(scene, model, 2)
                masters = whole(model)
                for module in model.modules():
                    if isinstance(module, FSDPModule):
                        module.unshard()
                mine = {n: p.detach().clone() for n, p in model.named_parameters()}
                assert handle.stats().residual_norm > 0
            for name, p in mine.items():
                others = [torch.empty_like(p) for _ in range(scene.size)]
                dist.all_gather(others, p)
                assert all(torch.equal(p, o) for o in others), f"{codec}: {name} differs between ranks"
                if codec != "int8":
                    kept = masters[name] if codec is None else masters[name].bfloat16().float()
                    assert torch.equal(p, kept)


def check_coded_training_repeats_bit_for_bit_in_every_mode(scene: Scene) -> None:
    """Prefetched or kept, compiled or not: the same bits."""
    start, runs = Model(), []
    for options, compiled in (({}, False), ({"reshard_after_forward": False}, False), ({}, True)):
        model = copy.deepcopy(start)
        torch._dynamo.reset()
        if compiled:
            for block in model.blocks:
                block.compile(backend="aot_eager", fullgraph=True)
        with applied(sharded(model, flat_mesh(scene), **options), "int4", "int8"):
            runs.append(train(scene, model, 3, accumulate=2))
    for other in runs[1:]:
        assert_close(other, runs[0], 0.0)


def check_sixteen_bits_travel_coded(scene: Scene) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    start, ends = Model(), []
    for codec in (None, "int8"):
        model = sharded(copy.deepcopy(start), flat_mesh(scene), mp_policy=policy)
        with applied(model, codec, "bf16"):
            ends.append(train(scene, model, 1)[0])
    for name, g in ends[0].items():
        assert (ends[1][name] - g).norm() <= 0.03 * g.norm(), name


def check_stages_change_the_codec_and_pay_what_is_owed(scene: Scene) -> None:
    start = Model()
    model = sharded(copy.deepcopy(start), flat_mesh(scene))
    local = copy.deepcopy(start)
    sums = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in local.named_parameters()}
    with applied(model, gradwire.Stages({0: "int4", 2: None})) as handle:
        for step in range(3):
            for m in (local, model):
                m.zero_grad()
                m(scene.batch(step, (4, WIDTH))).backward()
            for n, p in local.named_parameters():
                sums[n] += p.grad
            for n, g in grads(model).items():
                sums[n] -= g
            if step == 1:
                assert handle.stats().residual_norm > 0
        assert handle.stats().residual_norm == 0
    for name, gap in sums.items():
        assert float((scene.sum(gap) / scene.size).abs().max()) < 1e-6, name


def check_codecs_go_by_module(scene: Scene) -> None:
    rule = {"blocks.0": "int4", "blocks.1": None, "": "int8"}
    model = sharded(Model(), flat_mesh(scene))
    with applied(model, rule) as handle:
        train(scene, model, 1)
        names = {k.split("/")[1] for k in handle.state_dict() if k.startswith("rank")}
    kept = {".".join(n.split(".")[: 2 if n.startswith("blocks") else 1]) for n in names}
    assert kept == {"blocks.0", "spare", "head"}


def check_fewer_bytes_are_sent(scene: Scene) -> None:
    model = sharded(Model(), both_meshes(scene))
    with applied(model, "int8", "bf16", "int8") as handle:
        train(scene, model, 2)
        stats = handle.stats()
    assert stats.calls == {"reduce_scatter": 6, "all_gather": 2 * (3 + 2), "all_reduce": 6}, stats.calls
    assert 2.0 < stats.ratio < 3.5 and stats.exposed_s > 0, stats


def check_what_cannot_be_done_is_refused(scene: Scene) -> None:
    model = sharded(Model(), flat_mesh(scene))
    for call in (
        lambda: fsdp.apply(Model()),
        lambda: fsdp.apply(model, "int9"),
        lambda: fsdp.apply(model, "powersgd(rank=2)"),
        lambda: fsdp.apply(model, {"blocks.*": "int8"}),
        lambda: fsdp.apply(model, {"block.*": "int8", "*": None}),
        lambda: fsdp.apply(model, "int8", gradwire.warmup("int8", 3)),
    ):
        raises(gradwire.ArgumentError, call)
    handle = fsdp.apply(model, "int8")
    state = handle.state_dict()
    del state[f"rank{scene.rank}/head.weight"]
    refused("rank", handle.load_state_dict, state)
    dist.barrier()
    handle.close()
    handle.close()
    raises(gradwire.GradwireError, model, scene.batch(0, (4, WIDTH)))
