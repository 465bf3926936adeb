"""Every way DDP can group, delay, skip or reinterpret gradients. Two ranks.

Twice each: codec=None must equal plain DDP bit for bit, and a lossy codec must conserve what it loses.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from scene import MLP, Scene, assert_conserves, assert_matches_plain, assert_same, check_sums, grads, raises
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

warnings.filterwarnings("ignore")
SMALL = {"bucket_cap_mb": 0.005}  # megabytes: the MLP's 20 kB make several buckets


def both(scene: Scene, model: nn.Module, **ddp: Any) -> None:
    def loss(m: Any, step: int) -> torch.Tensor:
        return m(scene.batch(step)).square().mean()

    assert_matches_plain(scene, copy.deepcopy(model), loss, **ddp)
    handle = assert_conserves(scene, model, loss, ddp=ddp)
    handle.close()


def check_default_buckets(scene: Scene) -> None:
    both(scene, MLP())


def check_small_buckets_and_their_rebuild(scene: Scene) -> None:
    layouts = []

    def remember(handle: Any, step: int) -> None:
        layouts.append({k: len(p.params) for k, p in handle.state._plans.items()})

    def loss(m: Any, step: int) -> torch.Tensor:
        return m(scene.batch(step)).square().mean()

    assert_conserves(scene, MLP(), loss, ddp=SMALL, middle=remember).close()
    assert layouts[0] != layouts[1] == layouts[4], f"DDP did not rebuild its buckets: {layouts}"
    assert len(layouts[4]) > 1, "one bucket: nothing was regrouped"
    both(scene, MLP(), **SMALL)


def check_attach_chooses_the_sizes_of_buckets(scene: Scene) -> None:
    def buckets(of_attach: Any, **of_ddp: Any) -> list[int]:
        ddp = DistributedDataParallel(MLP(), **of_ddp)
        with gradwire.torch.attach(ddp, None, scene.comm, **of_attach) as handle:
            optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
            for i in range(3):
                optimizer.zero_grad()
                ddp(scene.batch(i)).square().mean().backward()
                optimizer.step()
            scene.same_everywhere(ddp)
            return [sum(p.numel() for p in plan.params) for _, plan in sorted(handle.state._plans.items())]

    for graph in ({}, {"gradient_as_bucket_view": True}, {"static_graph": True}):
        assert len(buckets({}, **graph)) == 1  # 20 kB
        assert len(buckets(SMALL, **graph)) > 2
    assert buckets(SMALL) == buckets({"bucket_cap_mb": None}, **SMALL) == buckets({}, **SMALL)
    assert sum(buckets(SMALL)) == sum(p.numel() for p in MLP().parameters())
    assert len(buckets(SMALL, find_unused_parameters=True)) > 2
    assert len(buckets({"bucket_cap_mb": 1}, **SMALL)) == 1
    for wrong in (0, -1.5, "big"):
        raises(gradwire.ArgumentError, lambda wrong=wrong: buckets({"bucket_cap_mb": wrong}))


def check_bucket_cap_mb_list(scene: Scene) -> None:
    both(scene, MLP(), bucket_cap_mb_list=[0.002, 0.004, 0.008])


def check_gradient_as_bucket_view(scene: Scene) -> None:
    both(scene, MLP(), gradient_as_bucket_view=True, **SMALL)


def check_static_graph(scene: Scene) -> None:
    both(scene, MLP(), static_graph=True, **SMALL)


def check_static_graph_with_bucket_view(scene: Scene) -> None:
    both(scene, MLP(), static_graph=True, gradient_as_bucket_view=True, **SMALL)


def check_batched_grad_copy(scene: Scene) -> None:
    both(scene, MLP(), batched_grad_copy=True, **SMALL)


class Branches(nn.Module):
    """Layers 0 and 1 alternate; layer 2 is used by one rank only in odd steps; layer 3 never."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.rank, self.step = rank, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers[self.step % 2](x)
        return self.layers[2](y) if self.rank == 0 and self.step % 2 else y


def check_find_unused_parameters(scene: Scene) -> None:
    def loss(m: Any, step: int) -> torch.Tensor:
        getattr(m, "module", m).step = step
        return m(scene.batch(step)).square().mean()

    for view in (False, True):
        ddp = {"find_unused_parameters": True, "gradient_as_bucket_view": view, **SMALL}
        assert_matches_plain(scene, Branches(scene.rank), loss, **ddp)
        # Layer 0's residual must survive the steps in which DDP throws layer 0's result away.
        assert_conserves(scene, Branches(scene.rank), loss, ddp=ddp, steps=6).close()


def check_skip_all_reduce_unused_params(scene: Scene) -> None:
    def loss(m: Any, step: int) -> torch.Tensor:
        getattr(m, "module", m).step = step
        return m(scene.batch(step)).square().mean()

    ddp = {"find_unused_parameters": True, "skip_all_reduce_unused_params": True, **SMALL}
    assert_matches_plain(scene, Branches(scene.rank), loss, **ddp)
    assert_conserves(scene, Branches(scene.rank), loss, ddp=ddp, steps=6).close()


def check_no_sync_accumulates_and_then_sends_once(scene: Scene) -> None:
    local, (hooked, handle) = MLP(), scene.ddp(MLP(), "int4", SMALL)
    plain_model = copy.deepcopy(hooked.module)
    local.load_state_dict(hooked.module.state_dict())
    lossless, plain = (
        scene.ddp(copy.deepcopy(local), None, SMALL),
        DistributedDataParallel(plain_model, **SMALL),
    )
    produced = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in local.named_parameters()}
    received = copy.deepcopy(produced)
    for step in range(6):
        for m in (local, hooked, lossless[0], plain):
            m.zero_grad()
            for micro in range(2):
                if m is not local and micro == 0:
                    with m.no_sync():
                        m(scene.batch(2 * step)).square().mean().backward()
                else:
                    m(scene.batch(2 * step + micro)).square().mean().backward()
        assert_same(grads(plain.module), grads(lossless[0].module))
        for n, g in grads(local).items():
            produced[n] += g
        for n, g in grads(hooked.module).items():
            received[n] += g
    check_sums(scene, produced, received, hooked.module, handle)
    assert handle.stats().steps == 6, "no_sync steps were counted"
    handle.close()


def check_tied_and_frozen_parameters(scene: Scene) -> None:
    model = MLP(32, 32, 4)
    model.layers[1].weight = model.layers[2].weight
    model.layers[3].weight.requires_grad_(False)
    both(scene, model, **SMALL)


def check_channels_last(scene: Scene) -> None:
    def make() -> nn.Module:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3))
        return net.to(memory_format=torch.channels_last)

    def loss(m: Any, step: int) -> torch.Tensor:
        x = scene.batch(step, (2, 3, 8, 8)).to(memory_format=torch.channels_last)
        return m(x).square().mean()

    assert not make()[2].weight.is_contiguous(), (
        "the weights are not channels_last: this check checks nothing"
    )
    for view in (False, True):
        assert_matches_plain(scene, make(), loss, gradient_as_bucket_view=view)
        assert_conserves(scene, make(), loss, ddp={"gradient_as_bucket_view": view}).close()


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
        self.layers = nn.ModuleList(nn.Linear(32, 32).to(d) for d in dtypes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x.to(layer.weight.dtype)))
        return x.float()


def check_buckets_of_several_dtypes(scene: Scene) -> None:
    def loss(m: Any, step: int) -> torch.Tensor:
        return m(scene.batch(step)).square().mean()

    # Two ranks: one rounding to 16 bits, here and in gloo. Large gradients: DDP halves before it adds,
    # which costs subnormals their last bit.
    assert_matches_plain(scene, Mixed(), lambda m, step: 1e4 * loss(m, step))
    for codec in ("int8", "bf16", "topk(ratio=0.1)"):
        hooked, handle = scene.ddp(Mixed(), codec)
        optimizer = torch.optim.SGD(hooked.parameters(), lr=0.1)
        for step in range(4):
            optimizer.zero_grad()
            loss(hooked, step).backward()
            optimizer.step()
        scene.same_everywhere(hooked)
        handle.close()


def check_sparse_gradients_pass_through(scene: Scene) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(50, 32, sparse=True), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(x))

    def loss(m: Any, step: int) -> torch.Tensor:
        rows = torch.tensor([step, 3 * step + scene.rank, 7])
        return m(rows).square().mean()

    assert_matches_plain(scene, Bag(), loss)
    hooked, handle = scene.ddp(Bag(), "int8")
    loss(hooked, 1).backward()
    assert hooked.module.table.weight.grad.is_sparse
    handle.close()


def check_uneven_inputs_with_join(scene: Scene) -> None:
    """A joined rank is called outside of backward, with empty buckets: it must not send its residual into
    them."""
    model = MLP()
    hooked, handle = scene.ddp(model, "int4", SMALL)
    local = copy.deepcopy(model)
    produced = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in local.named_parameters()}
    received = copy.deepcopy(produced)
    with hooked.join():
        for step in range(3 + 2 * (scene.rank == 0)):
            for m in (local, hooked):
                m.zero_grad()
                m(scene.batch(step)).square().mean().backward()
            for n, g in grads(local).items():
                produced[n] += g
            for n, g in grads(model).items():
                received[n] += g
    for name, p in model.named_parameters():
        left = scene.sum(handle.state.residuals.read(p).view(p.shape))
        # rank 0 saw all five results, rank 1 only its own three
        got = torch.stack([scene.sum(received[name] * (scene.rank == 0)) * scene.size + left])[0]
        want = scene.sum(produced[name])
        assert float((got - want).abs().max() / want.abs().max()) < 2e-5, name
    handle.close()
