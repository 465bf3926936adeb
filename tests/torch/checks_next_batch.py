"""overlap="next-batch": gradients exactly one step old, for the hook and for the bucketer. Two ranks."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from checks_bucketer import bucketer, square
from checks_modes import SMALL, Branches
from scene import MLP, Grads, Scene, assert_same, digest, grads, raises
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

warnings.filterwarnings("ignore")
OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01),
]


class Delayed:
    """A model whose gradients are averaged, one step late: by the hook, or by the bucketer."""

    def __init__(self, scene: Scene, model: nn.Module, kind: str, codec: Any = None, **options: Any) -> None:
        self.model, self.kind = model, kind
        if kind == "bucketer":
            self.module: Any = model
            self.handle = bucketer(scene, model, codec, overlap="next-batch", **options)
        else:
            ddp = {"gradient_as_bucket_view": kind == "view", "static_graph": kind == "static", **SMALL}
            self.module, self.handle = scene.ddp(model, codec, ddp, overlap="next-batch", **options)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()
        if self.kind == "bucketer":
            self.handle.wait()


def check_training_is_that_of_a_delayed_optimizer(scene: Scene) -> None:
    for make in OPTIMIZERS:
        for kind in ("hook", "view", "static", "bucketer"):
            base = MLP()
            plain = DistributedDataParallel(copy.deepcopy(base))
            by_hand = make(plain.parameters())
            late = Delayed(scene, copy.deepcopy(base), kind)
            optimizer = make(late.model.parameters())
            held: Grads = {n: None for n, _ in base.named_parameters()}
            for step in range(6):
                plain.zero_grad()
                square(plain, scene, step).backward()
                fresh = grads(plain.module)
                for n, p in plain.module.named_parameters():
                    p.grad = held[n]
                by_hand.step()
                held = fresh

                optimizer.zero_grad()
                late.backward(square(late.module, scene, step))
                optimizer.step()
                assert digest(late.model) == digest(plain.module), f"{kind}, step {step}"
            late.handle.flush()
            assert_same(held, grads(late.model))
            late.handle.flush()  # nothing more is held
            assert_same(held, grads(late.model))
            late.handle.close()


def check_a_codec_gives_the_bits_it_gives_without_delay(scene: Scene) -> None:
    """Of fixed parameters: the delayed gradients are the others, one step later, error feedback and all."""
    # PowerSGD's operations of one would mix with the other's: a communicator each
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/delayed", timeout=10)
    own = Scene(scene.rank, 2, comm, scene.folder)
    for codec in ("int4", "powersgd(rank=2)", {"*.bias": None, "layers.0.*": "int8", "*": "int4"}):
        options = {"min_numel": 0} if isinstance(codec, dict) else {}
        now, handle = scene.ddp(MLP(), codec, SMALL, **options)
        late = Delayed(own, copy.deepcopy(now.module), "hook", codec, **options)
        held: Grads = {n: None for n, _ in now.module.named_parameters()}
        for step in range(5):
            for m in (now, late.module):
                m.zero_grad()
            square(now, scene, step).backward()
            late.backward(square(late.module, scene, step))
            assert_same(held, grads(late.model))
            held = grads(now.module)
        late.handle.flush()
        assert_same(held, grads(late.model))
        assert late.handle.stats().residual_norm == handle.stats().residual_norm
        a, b = handle.stats(), late.handle.stats()
        assert a.steps == b.steps == 5 and b.dense_bytes_per_step == a.dense_bytes_per_step
        handle.close()
        late.handle.close()
    comm.close()


def check_bytes_between_steps_are_counted(scene: Scene) -> None:
    late = Delayed(scene, MLP(), "hook", None)
    for step in range(6):
        late.backward(square(late.module, scene, step))
        scene.sum(torch.zeros(1))
    stats = late.handle.stats()
    assert 0.8 < stats.bytes_per_step / stats.dense_bytes_per_step < 1.1, stats
    late.handle.close()


def check_no_sync_and_unused_parameters(scene: Scene) -> None:
    refused = {"find_unused_parameters": True}
    raises(gradwire.ArgumentError, lambda: scene.ddp(MLP(), None, refused, overlap="next-batch"))
    raises(gradwire.ArgumentError, lambda: scene.ddp(MLP(), None, overlap="next week"))

    plain = DistributedDataParallel(Branches(scene.rank), find_unused_parameters=True)
    late = Delayed(scene, copy.deepcopy(plain.module), "bucketer", find_unused_parameters=True)
    held: Grads = {n: None for n, _ in plain.module.named_parameters()}
    for step in range(6):
        for m in (plain, late.model):
            m.zero_grad()
        with plain.no_sync(), late.handle.no_sync():
            for m in (plain, late.model):
                square(m, scene, 10 + step).backward()
        square(plain, scene, step).backward()
        late.backward(square(late.module, scene, step))
        assert_same(held, grads(late.model))
        held = grads(plain.module)
    late.handle.flush()
    assert_same(held, grads(late.model))
    late.handle.close()
    late = Delayed(scene, Branches(scene.rank), "bucketer", "powersgd(rank=2)", find_unused_parameters=True)
    for step in range(4):
        late.backward(square(late.module, scene, step))
    late.handle.close()


def check_a_checkpoint_holds_what_is_under_way(scene: Scene) -> None:
    for kind in ("hook", "bucketer"):
        first = Delayed(scene, MLP(), kind, "int4")
        for step in range(3):
            first.model.zero_grad()
            first.backward(square(first.module, scene, step))
        file = io.BytesIO()
        torch.save(first.handle.state_dict(), file)
        file.seek(0)
        second = Delayed(scene, copy.deepcopy(first.model), kind, "int4")
        assert second.handle.state_dict().keys() == first.handle.state_dict().keys()
        second.handle.load_state_dict(torch.load(file))
        for which in (first, second):
            which.model.zero_grad()
            which.backward(square(which.module, scene, 3))
        assert_same(grads(first.model), grads(second.model))
        first.handle.close()
        second.handle.close()


def check_an_error_drops_what_was_held(scene: Scene) -> None:
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/late", timeout=10)
    late = Delayed(Scene(scene.rank, 2, comm, scene.folder), MLP(), "hook", "int8", timeout=0.5)
    for step in range(3):
        late.backward(square(late.module, scene, step))
    late.handle.stats()
    scene.sum(torch.zeros(1))
    if scene.rank == 0:

        def alone() -> None:
            late.backward(square(late.module, scene, 3))
            late.handle.flush()

        assert raises(gradwire.Timeout, alone).rank == 1  # type: ignore[attr-defined]
    scene.sum(torch.zeros(1))
    comm.reconfigure(scene.rank, 2)
    if scene.rank == 1:
        late.handle.state.next_batch.forget()
    late.model.zero_grad()
    late.backward(square(late.module, scene, 4))
    assert all(g is None for g in grads(late.model).values())
    late.model.zero_grad()
    late.backward(square(late.module, scene, 5))
    assert all(bool(g.any()) for g in grads(late.model).values() if g is not None)
    scene.same_everywhere(late.model)
    late.handle.close()
    comm.close()


def check_join_and_sparse(scene: Scene) -> None:
    late = Delayed(scene, MLP(), "hook", "int4")
    optimizer = torch.optim.SGD(late.model.parameters(), lr=0.1)
    with late.module.join():
        for step in range(3 + 2 * (scene.rank == 0)):
            optimizer.zero_grad()
            late.backward(square(late.module, scene, step))
            optimizer.step()
    scene.same_everywhere(late.model)
    late.handle.close()

    table = nn.Embedding(50, 32, sparse=True)
    late = Delayed(scene, nn.Sequential(table, nn.Linear(32, 32)), "hook", None)
    loss = late.module(torch.tensor([scene.rank])).sum()
    assert "sparse" in str(raises(gradwire.ArgumentError, lambda: late.backward(loss)))
    late.handle.close()
