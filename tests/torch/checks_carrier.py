"""Checks of coded collectives that travel through torch groups, with the bits of the engine's "direct"."""

from __future__ import annotations

import copy
import functools
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scene import MLP, Scene, assert_conserves, assert_same, grads, raises
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch
from gradwire.torch import Carrier

CODECS = [
    *gradwire.codecs(),
    "int8(block=128)",
    "int4(rounding=stochastic)",
    "rotated4(scale=unbiased)",
    "topk(ratio=0.1,values=int8)",
]
LOSSY = [c for c in CODECS if gradwire.codec(c).lossy]  # without loss the group adds in its own order


@functools.cache
def group(backend: str = "gloo") -> Any:
    return dist.new_group(backend=backend)


def pair(scene: Scene, name: str, backend: str = "gloo") -> tuple[Any, Any]:
    """(an engine, a carrier) that have made no call yet: codecs that draw at random go by its number."""
    place = f"file://{scene.folder}/{name}"
    return gradwire.init(rank=scene.rank, size=scene.size, store=place, timeout=20), Carrier(group(backend))


def values(scene: Scene, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(count, generator=torch.Generator().manual_seed(17 * count + scene.rank))
    x[::7] = -0.0
    return x.to(dtype)


def same(a: torch.Tensor, b: torch.Tensor, what: object = "") -> None:
    assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)), (
        f"{what}: {int((a != b).sum())} of {a.numel()} differ"
    )


# -- collectives ---------------------------------------------------------------------------------------------
def check_all_reduce_and_its_residual_have_the_engines_bits(scene: Scene) -> None:
    engine, carrier = pair(scene, "all-reduce")
    for codec in LOSSY:
        for count in (0, 1, 127, 129, 40001):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                if dtype != torch.float32 and count != 129:
                    continue
                for op in ("sum", "avg"):
                    a = values(scene, count, dtype)
                    b = a.clone()
                    lost = torch.randn(count, generator=torch.Generator().manual_seed(scene.rank)) * 0.1
                    owed = lost.clone()
                    for residual in (True, False):
                        x, y = (lost, owed) if residual else (None, None)
                        engine.all_reduce(a, op, codec, "direct", x)
                        carrier.all_reduce(b, op, codec, residual=y)
                        same(a, b, (codec, count, dtype, op, residual))
                        carrier._coded.piece = 5000 if residual else 1 << 19  # in several pieces or in one
                    same(lost, owed, ("residual", codec, count, dtype, op))
    carrier.close()
    engine.close()


def check_the_other_collectives_have_them_too(scene: Scene) -> None:
    for backend in ("gloo", "gradwire"):
        engine, carrier = pair(scene, f"others-{backend}", backend)
        n = scene.size
        for codec in LOSSY:
            for count in (1, 5000):
                x = values(scene, n * count)
                lost = torch.zeros(n * count)
                owed = lost.clone()
                for op in ("sum", "avg"):
                    a = engine.reduce_scatter(x, op=op, codec=codec, algorithm="direct", residual=lost)
                    b = carrier.reduce_scatter(x, op=op, codec=codec, residual=owed)
                    same(a, b, ("reduce_scatter", codec, count, op))
                    same(lost, owed, ("its residual", codec, count, op))
                share = values(scene, count)
                a = engine.all_gather(share, codec=codec, algorithm="direct")
                b = carrier.all_gather(share, codec=codec)
                same(a, b, ("all_gather", codec, count))
                a = values(scene, count, torch.bfloat16)
                b = a.clone()
                engine.broadcast(a, n - 1, codec, "direct")
                carrier.broadcast(b, n - 1, codec)
                same(a, b, ("broadcast", codec, count))
        carrier.close()
        engine.close()


def check_without_a_codec_the_group_does_it(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    carrier = Carrier(group())
    assert (carrier.rank, carrier.size) == (me, n) and carrier.peers()[(me + 1) % n][0] == "gloo"
    for codec in (None, "lossless", "auto"):
        x = torch.full((4,), float(me + 1))
        carrier.all_reduce(x, codec=codec)
        same(x, torch.full((4,), float(n * (n + 1) // 2)))
    x = torch.full((4,), float(me + 1))
    assert carrier.all_reduce(x, "max") is x and x[0] == n
    y = carrier.all_reduce(np.float32([n * me, n]), "avg")
    assert isinstance(y, np.ndarray) and y[1] == n and abs(y[0] - n * (n - 1) / 2) < 1e-5
    same(carrier.reduce_scatter(torch.arange(2.0 * n)), torch.arange(2.0) * n + 2 * n * me)
    same(carrier.all_gather(torch.tensor([me])), torch.arange(n).view(n, 1))
    same(carrier.broadcast(torch.tensor([me]), n - 1), torch.tensor([n - 1]))
    assert carrier.all_to_all(np.arange(n) + 10 * me).tolist() == [10 * r + me for r in range(n)]
    got = torch.zeros(3)
    sent = carrier.send(torch.full((3,), float(me)), (me + 1) % n, async_op=True) if n > 1 else None
    if sent is not None:
        same(carrier.recv(got, (me - 1) % n), torch.full((3,), float((me - 1) % n)))
        sent.wait(timeout=10)
    carrier.barrier(timeout=10)
    carrier.close()


def check_calls_may_overlap(scene: Scene) -> None:
    carrier = Carrier(group())
    xs = [values(scene, 1000) for _ in range(20)]
    want = [carrier.all_reduce(x.clone(), codec="int8") for x in xs]
    works = [carrier.all_reduce(x, codec="int8", async_op=True) for x in xs]
    late = carrier.all_reduce(values(scene, 1000), codec="int8")  # behind them
    for work, x, w in zip(reversed(works), reversed(xs), reversed(want)):
        assert work.wait(timeout=20) is x and work.done()
        same(x, w)
    same(late, want[0])
    assert carrier.stats()["bytes_sent"] > 0
    carrier.close()
    raises(gradwire.Closed, carrier.all_reduce, torch.ones(3))


def check_bad_calls_are_refused(scene: Scene) -> None:
    carrier = Carrier(group())
    x = torch.ones(64)
    for call in (
        lambda: carrier.all_reduce(x, "median"),
        lambda: carrier.all_reduce(x, "max", "int8"),
        lambda: carrier.all_reduce(x.int(), codec="int8"),
        lambda: carrier.all_reduce(x, algorithm="ring"),
        lambda: carrier.all_reduce(x, codec="int9"),
        lambda: carrier.all_reduce(x, residual=torch.zeros(64)),
        lambda: carrier.all_reduce(x, codec="int8", residual=torch.zeros(63)),
        lambda: carrier.all_reduce(torch.ones(4, 4).t(), codec="int8"),
        lambda: carrier.all_gather(x, torch.empty(3)),
        lambda: carrier.broadcast(x, 17),
        lambda: carrier.explain(64),
        lambda: carrier.split(0),
        lambda: carrier.reconfigure(0, 1),
        lambda: carrier.all_reduce_many([x]),
        lambda: gradwire.torch.communicator(dist.group.WORLD, carrier=dist.new_group([0])),
    ):
        raises(gradwire.ArgumentError, call)
    same(carrier.all_reduce(torch.ones(3)), torch.full((3,), float(scene.size)))  # nothing was sent
    if scene.size > 1:
        coded = carrier._coded
        truth = coded._sizes
        coded._sizes = lambda mine, *of: truth([1 << 40 if size else 0 for size in mine], *of)
        error = raises(gradwire.FrameError, carrier.all_reduce, torch.ones(640), "sum", "rice4")
        assert "announced" in str(error)
    carrier.close()


def check_codecs_refuse_tensors_of_other_devices(scene: Scene) -> None:
    with Carrier(group()) as carrier:
        for call in (carrier.all_reduce, carrier.reduce_scatter, carrier.all_gather):
            error = raises(gradwire.ArgumentError, call, torch.empty(6, device="meta"), codec="int8")
            assert "one on meta" in str(error) and "x.cpu()" in str(error), error


def check_the_groups_errors_are_ours_too(scene: Scene) -> None:
    late = dist.new_group(timeout=timedelta(seconds=1))
    if scene.rank == 0:
        carrier = Carrier(late)
        error = raises(gradwire.GradwireError, carrier.all_reduce, torch.ones(3000), codec="int8")
        assert isinstance(error, RuntimeError) and "carrying group" in str(error), repr(error)
        carrier.close()
    dist.barrier()
    late = dist.new_group(timeout=timedelta(seconds=1))
    if scene.rank == 0:
        carrier = Carrier(late)
        for wait in (
            carrier.recv(torch.ones(3), 1, async_op=True).wait,
            lambda: carrier.recv(torch.ones(3), 1),
        ):
            assert "carrying group" in str(raises(gradwire.GradwireError, wait))
        carrier.close()
        raises(gradwire.Closed, carrier.recv, torch.ones(3), 1)
    dist.barrier()


# -- in training ---------------------------------------------------------------------------------------------
def check_ddp_over_a_carrier(scene: Scene) -> None:
    base = MLP()
    engine, _ = pair(scene, "ddp")
    for codec in ("int8", "int4", "topk(ratio=0.1)", "powersgd(rank=2)", "global_topk(ratio=0.1)"):
        direct = DistributedDataParallel(copy.deepcopy(base), bucket_cap_mb=0.005)
        carried = DistributedDataParallel(copy.deepcopy(base), bucket_cap_mb=0.005)
        handles = [
            gradwire.torch.attach(direct, codec, comm=engine, algorithm="direct", min_numel=64),
            gradwire.torch.attach(carried, codec, carrier=group(), min_numel=64),
        ]
        for step in range(3):
            for m in (direct, carried):
                m.zero_grad()
                m(scene.batch(step)).square().mean().backward()
            if scene.size == 2:  # what is not coded is added in the group's order
                assert_same(grads(direct.module), grads(carried.module))
        for p in carried.parameters():
            assert torch.equal(scene.sum(p.grad), scene.size * p.grad.double()), "ranks differ"
        assert handles[1].stats().bytes_per_step > 0
        for handle in handles:
            handle.close()
    plain = DistributedDataParallel(copy.deepcopy(base))
    exact = DistributedDataParallel(copy.deepcopy(base))
    auto = copy.deepcopy(base)
    handles = [
        gradwire.torch.attach(exact, None, carrier=group()),
        gradwire.torch.GradientBucketer(auto.named_parameters(), codec="auto", carrier=group()),  # is none
    ]
    for step in range(3):
        for m in (plain, exact, auto):
            m.zero_grad()
            m(scene.batch(step)).square().mean().backward()
        handles[1].wait()
        assert_same(grads(plain.module), grads(exact.module))
        if scene.size == 2:
            assert_same(grads(plain.module), grads(auto))
    for handle in handles:
        handle.close()
    engine.close()


def check_nothing_is_lost_over_a_carrier(scene: Scene) -> None:
    carrier = Carrier(group())
    own = Scene(scene.rank, scene.size, carrier, scene.folder)
    handle = assert_conserves(own, MLP(), lambda m, step: m(scene.batch(step)).square().mean())
    handle.close()
    carrier.close()


def check_a_group_that_ddp_uses_in_backward_is_refused(scene: Scene) -> None:
    m = DistributedDataParallel(MLP(), find_unused_parameters=True)
    error = raises(gradwire.ArgumentError, gradwire.torch.attach, m, "int8", carrier=dist.group.WORLD)
    assert "new_group" in str(error)
    with gradwire.torch.attach(m, "int8", carrier=group(), min_numel=64):
        m(scene.batch(0)).square().mean().backward()
    for p in m.parameters():
        assert torch.equal(scene.sum(p.grad), scene.size * p.grad.double()), "ranks differ"


def check_tensor_parallel_layers_over_a_carrier(scene: Scene) -> None:
    n = scene.size
    outs = []
    for carried in (False, True):
        tp = dist.new_group()
        gradwire.torch.communicator(tp, carrier=tp if carried else None)
        torch.manual_seed(2)
        up = gradwire.torch.ColumnParallelLinear(24, 24 * n, group=tp, codec="int8")
        down = gradwire.torch.RowParallelLinear(24 * n, 24, group=tp, codec="int8")
        x = torch.randn(40, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y, _ = down(up(x)[0])
        y.square().sum().backward()
        outs.append((y.detach(), x.grad))
    for a, b in zip(*outs):
        assert float((a - b).norm() / a.norm()) < 0.03
        everyone: list[Any] = [None] * n
        dist.all_gather_object(everyone, b.tolist())
        assert all(e == everyone[0] for e in everyone)


def check_fully_shard_over_a_carrier(scene: Scene) -> None:
    from torch.distributed.fsdp import fully_shard

    ends = []
    for connect in (gradwire.torch.groups.new_communicator, Carrier):
        torch.manual_seed(1)
        model = MLP()
        for layer in model.layers:
            fully_shard(layer)
        fully_shard(model)
        handle = gradwire.torch.fsdp.apply(model, "int8", "bf16", min_numel=64, connect=connect)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            model(scene.batch(step)).square().mean().backward()
            optimizer.step()
        ends.append([p.full_tensor().detach().clone() for p in model.parameters()])
        assert handle.stats().ratio > 1.2
        handle.close()
    for a, b in zip(*ends):
        assert float((a - b).norm()) <= 1e-2 * float(a.norm()), float((a - b).norm())


def check_training_without_ddp_over_a_carrier(scene: Scene) -> None:
    ends = []
    for options in ({}, {"carrier": group()}):
        torch.manual_seed(4)
        model = MLP()
        handle = gradwire.torch.GradientBucketer(
            model.named_parameters(), codec="int8", min_numel=64, algorithm="direct", **options
        )
        for step in range(3):
            model.zero_grad()
            model(scene.batch(step)).square().mean().backward()
            handle.wait()
        ends.append(grads(model))
        handle.close()
    if scene.size == 2:
        assert_same(*ends)
