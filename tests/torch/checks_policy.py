"""Policies, stages, PowerSGD and codecs in Python under DDP. Two ranks."""

from __future__ import annotations

import copy
import dataclasses
import io
import random
import time
import warnings
from typing import Any

import numpy as np
import torch
from scene import MLP, Scene, assert_same, digest, grads, raises, refused
from torch import nn

import gradwire
import gradwire.torch
from gradwire.torch.rules import Rules

warnings.filterwarnings("ignore")
POLICY = {"*.bias": None, "layers.0.*": "int8", "layers.1.*": "powersgd(rank=2)"}
POLICY["*"] = "global_topk(ratio=0.02)"


def step(model: Any, scene: Scene, number: int, optimizer: Any = None) -> None:
    model.zero_grad()
    model(scene.batch(number)).square().mean().backward()
    if optimizer is not None:
        optimizer.step()


def owed(scene: Scene, handle: Any) -> dict[str, torch.Tensor]:
    """Sum over the ranks of every residual."""
    state = handle.state_dict()
    names = sorted(k for k in state if k.startswith(f"rank{scene.rank}/"))
    return {k.partition("/")[2]: scene.sum(state[k]) for k in names}


def conserved(scene: Scene, codec: Any, steps: int, **options: Any) -> Any:
    """Gradients of frozen weights add up: results * size + what is owed = the exact sums."""
    base = MLP()
    m, handle = scene.ddp(copy.deepcopy(base), codec, **options)
    got: dict[str, torch.Tensor] = {}
    exact: dict[str, torch.Tensor] = {}
    for number in range(steps):
        step(m, scene, number)
        local = copy.deepcopy(base)
        step(local, scene, number)
        for (n, p), q in zip(m.module.named_parameters(), local.parameters()):
            got[n] = got.get(n, 0) + p.grad.double() * scene.size
            exact[n] = exact.get(n, 0) + scene.sum(q.grad)
    rest = owed(scene, handle)
    for n, sum_ in got.items():
        left = rest.get(n, torch.zeros(1)).reshape(sum_.shape if n in rest else (1,))
        torch.testing.assert_close(sum_ + left, exact[n], rtol=0, atol=1e-6)
    return m, handle, rest


def check_a_policy_gives_every_parameter_its_codec_and_loses_nothing(scene: Scene) -> None:
    _, handle, rest = conserved(scene, POLICY, steps=3, min_numel=None)
    assert not rest["layers.0.bias"].any()
    for n in range(3):
        assert rest[f"layers.{n}.weight"].any()
    handle.close()


def check_a_policy_of_one_codec_gives_the_bits_of_that_codec(scene: Scene) -> None:
    base, got = MLP(), []
    for codec, options in (
        ("int8", {}),
        ({"*.bias": None, "*": "int8"}, {"min_numel": None}),
        (gradwire.Policy({"*.weight": "int8"}, default=None), {"min_numel": None}),
    ):
        m, handle = scene.ddp(copy.deepcopy(base), codec, **options)
        step(m, scene, 0)
        got.append(grads(m.module))
        handle.close()
    assert_same(got[0], got[1])
    assert_same(got[0], got[2])


def check_a_policy_that_does_not_fit_the_model_is_refused(scene: Scene) -> None:
    for policy, part in (
        ({"*.bias": None}, "layers.0.weight"),
        ({"*.bais": None, "*": "int8"}, "bais"),
        ({"*": "int9"}, "int9"),
    ):
        refused(part, scene.ddp, MLP(), policy)
    refused("named_parameters", Rules({"*": "int8"}).choice, nn.Parameter(torch.zeros(64, 64)), 0)


def check_every_stage_pays_what_the_one_before_owed(scene: Scene) -> None:
    codecs = {0: None, 2: "int4", 4: "powersgd(rank=1)", 5: "global_topk(ratio=0.04)", 6: "topk(ratio=0.1)"}
    stages = gradwire.Stages({**codecs, 8: None})
    _, handle, rest = conserved(scene, stages, steps=8)
    assert all(rest[f"layers.{n}.weight"].any() for n in range(3))
    handle.close()
    _, handle, rest = conserved(scene, stages, steps=9)
    assert not any(r.any() for r in rest.values())  # dense at last: everything is paid
    handle.close()


def check_a_stage_survives_a_checkpoint(scene: Scene) -> None:
    def make(model: nn.Module) -> Any:
        stages = gradwire.Stages({0: None, 2: "int8", 5: "int4"})
        return scene.ddp(model, {"*.bias": None, "layers.1.*": "powersgd(rank=2)", "*": stages}, min_numel=0)

    torch.manual_seed(1)
    base = MLP()
    m, handle = make(copy.deepcopy(base))
    for number in range(4):
        step(m, scene, number)
    kept = io.BytesIO()
    torch.save(handle.state_dict(), kept)
    kept.seek(0)
    again, second = make(copy.deepcopy(base))
    for number in range(2):  # DDP regroups after its first step; blocks, and so bits, follow the grouping
        step(again, scene, number)
    second.load_state_dict(torch.load(kept))
    assert second.state.step == 4
    for number in range(4, 8):  # crosses a switch
        step(m, scene, number)
        step(again, scene, number)
        assert_same(grads(m.module), grads(again.module))
    handle.close()
    second.close()


def check_powersgd_with_many_buckets_and_jitter_neither_hangs_nor_diverges(scene: Scene) -> None:
    dice = random.Random(scene.rank)
    m, handle = scene.ddp(MLP(64, 96, 6), "powersgd(rank=2)", {"bucket_cap_mb": 0.02})
    for p in m.parameters():  # ranks reach their buckets at odds
        p.register_post_accumulate_grad_hook(lambda _: time.sleep(dice.choice((0, 0, 0.004))))
    optimizer = torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)
    for number in range(12):
        model_input = scene.batch(number, (4, 64))
        optimizer.zero_grad()
        m(model_input).square().mean().backward()
        optimizer.step()
        if dice.random() < 0.3:
            time.sleep(0.01)
    scene.same_everywhere(m)
    assert handle.stats().ratio > 4, handle.stats()
    handle.close()


def check_powersgd_in_bf16_and_with_unused_parameters(scene: Scene) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    m, handle = scene.ddp(Half().bfloat16(), "powersgd(rank=1)", {"find_unused_parameters": True})
    for number in range(3):
        m.zero_grad()
        m(scene.batch(number, (4, 64)).bfloat16()).square().mean().backward()
    assert m.module.unused.weight.grad is None or not m.module.unused.weight.grad.any()
    assert torch.isfinite(m.module.used.weight.grad.float()).all()
    scene.same_everywhere(m)
    handle.close()


def check_a_dead_ranks_powersgd_raises_from_backward(scene: Scene) -> None:
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/lowrank", timeout=10)
    m, handle = Scene(scene.rank, 2, comm, scene.folder).ddp(MLP(), "powersgd(rank=1)")
    step(m, scene, 0)
    if scene.rank == 1:
        comm.close()
    raises(gradwire.GradwireError, step, m, scene, 1)
    handle.close()
    comm.close()


def check_powersgd_trains_as_far_as_dense(scene: Scene) -> None:
    torch.manual_seed(0)
    base, target = MLP(), MLP()
    losses = {}
    for codec in (None, "powersgd(rank=4)"):
        m, handle = scene.ddp(copy.deepcopy(base), codec)
        optimizer = torch.optim.SGD(m.parameters(), lr=0.2, momentum=0.9)
        for number in range(80):
            x = scene.batch(number, (16, 32))
            loss = (m(x) - target(x).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[codec] = float(scene.sum(loss.detach())) / scene.size
        assert len({digest(m)}) == 1
        handle.close()
    assert losses["powersgd(rank=4)"] < 1.5 * losses[None], losses


def links(size: int, byte_s: float) -> gradwire.Topology:
    """Every rank a host of its own."""
    table = [[[t * (a != b) for b in range(size)] for a in range(size)] for t in (50e-6, 5e-6, byte_s)]
    return gradwire.Topology(["h"] * size, list(range(size)), list(range(size)), 8, *table)


def check_codec_auto_changes_between_steps_with_the_prices_and_loses_nothing(scene: Scene) -> None:
    comm = scene.comm.split(0)
    here = dataclasses.replace(scene, comm=comm)
    comm.use(links(scene.size, 1e-7))  # 10 MB/s
    sent = []
    base = MLP()
    m, handle = here.ddp(copy.deepcopy(base), "auto")
    got = exact = 0.0
    for number in range(9):
        before = comm.stats()["bytes_sent"]
        step(m, here, number)
        sent.append(comm.stats()["bytes_sent"] - before)
        local = copy.deepcopy(base)
        step(local, here, number)
        got += m.module.layers[1].weight.grad.double() * scene.size
        exact += scene.sum(local.layers[1].weight.grad)
        if number in (2, 5):
            comm.use(links(scene.size, 1e-10 if number == 2 else 1e-7))
    rest = owed(here, handle)["layers.1.weight"].reshape(48, 48)
    torch.testing.assert_close(got + rest, exact, rtol=0, atol=1e-6)
    # a choice holds until the end of the step after the new prices came
    coded = [bytes_ < 0.5 * max(sent) for bytes_ in sent]
    assert coded == [True] * 4 + [False] * 3 + [True] * 2, sent
    handle.close()
    comm.close()


def check_codec_auto_has_links_measured_that_nobody_measured(scene: Scene) -> None:
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/unmeasured", timeout=10)
    here = Scene(scene.rank, 2, comm, scene.folder)
    asked: list[Any] = []
    comm.use = asked.append  # type: ignore[method-assign,assignment]
    for make in (
        lambda: here.ddp(MLP(), "auto")[1],
        lambda: gradwire.torch.GradientBucketer(MLP().parameters(), comm, "auto"),
        lambda: gradwire.torch.GradientBucketer(MLP().parameters(), comm, "int8"),
    ):
        make().close()
    assert asked == ["auto", "auto"]
    comm.measured = True
    here.ddp(MLP(), "auto")[1].close()
    assert len(asked) == 2
    comm.close()


class Half:
    """A codec in Python: it runs on the communicator's thread while this one waits in backward."""

    name = "half_in_python"

    def encoded_bytes(self, count: int) -> int:
        return 2 * count

    def encode(self, x: Any) -> Any:
        return x.astype(np.float16).view(np.uint8)

    def decode(self, payload: Any, count: int) -> Any:
        return payload.view(np.float16).astype(np.float32)


def check_a_python_codec_serves_the_hook(scene: Scene) -> None:
    """It rounds as the native fp16 does, so it must leave the same bits behind."""
    torch.manual_seed(1)
    model = MLP()
    ends = []
    for codec in ("fp16", gradwire.register_codec(Half)):
        hooked, handle = scene.ddp(copy.deepcopy(model), codec)
        for step in range(3):
            hooked.zero_grad()
            hooked(scene.batch(step)).square().mean().backward()
        scene.same_everywhere(hooked)
        ends.append(grads(hooked.module))
        handle.close()
    assert_same(*ends)
