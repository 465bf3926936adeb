"""DiLoCo and LocalSGD: the outer step against one by hand, equal replicas, conserved loss. Two ranks."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import torch
import torch.distributed as dist
from scene import MLP, Scene, digest, grads, raises
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

warnings.filterwarnings("ignore")


def inner(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def outer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)


def diloco(scene: Scene, model: nn.Module, codec: Any = "int8", every: int = 3, **options: Any) -> Any:
    options = {"min_numel": 64, "bucket_mb": 0.005, **options}
    return gradwire.torch.DiLoCo(
        model, inner(model), outer(model), scene.comm, every=every, codec=codec, **options
    )


def train(d: Any, model: nn.Module, scene: Scene, steps: int, first: int = 0) -> list[bool]:
    met = []
    for step in range(first, first + steps):
        model.zero_grad()
        model(scene.batch(step)).square().mean().backward()
        met.append(d.step())
    return met


def check_the_outer_step_is_the_one_written_by_hand(scene: Scene) -> None:
    model = MLP()
    by_hand = copy.deepcopy(model)
    its_inner, its_outer = inner(by_hand), outer(by_hand)
    with diloco(scene, model, None) as d:
        for meeting in range(3):
            assert train(d, model, scene, 3, 3 * meeting) == [False, False, True]
            before = [p.detach().clone() for p in by_hand.parameters()]
            for step in range(3 * meeting, 3 * meeting + 3):
                by_hand.zero_grad()
                by_hand(scene.batch(step)).square().mean().backward()
                its_inner.step()
            with torch.no_grad():
                for p, anchor in zip(by_hand.parameters(), before):
                    p.grad = anchor - p
                    dist.all_reduce(p.grad)
                    p.grad /= 2
                    p.copy_(anchor)
            its_outer.step()
            assert digest(model) == digest(by_hand), f"meeting {meeting}"
        assert all(g is None for g in grads(model).values())


def check_averaging_plain_sgd_at_every_step_is_ddp(scene: Scene) -> None:
    plain = DistributedDataParallel(MLP())
    model = copy.deepcopy(plain.module)
    a, b = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (plain, model))
    with gradwire.torch.LocalSGD(model, b, scene.comm, every=1, codec=None) as local:
        for step in range(5):
            for m in (plain, model):
                m.zero_grad()
                m(scene.batch(step)).square().mean().backward()
            a.step()
            assert local.step()
            for p, q in zip(plain.parameters(), model.parameters()):
                torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def check_replicas_are_equal_after_each_meeting_and_only_then(scene: Scene) -> None:
    policy = {"*.bias": None, "*": "int4"}
    for codec in (None, "int8", "int4", "topk(ratio=0.05)", "powersgd(rank=2)", policy):
        torch.manual_seed(scene.rank)  # they start from rank 0's
        model = nn.Sequential(MLP(), nn.BatchNorm1d(32), MLP())
        with diloco(scene, model, codec, **({"min_numel": 0} if isinstance(codec, dict) else {})) as d:
            for step in range(6):
                met = train(d, model, scene, 1, step)[0]
                hashes: list[Any] = [None] * scene.size
                dist.all_gather_object(hashes, digest(model))
                assert (len(set(hashes)) == 1) == met == ((step + 1) % 3 == 0), (codec, step)
                mean: list[Any] = [None] * scene.size
                dist.all_gather_object(mean, model[1].running_mean.tolist())
                assert (mean[0] == mean[1]) == met
            assert d.stats().steps == 2
            assert codec is None or d.stats().ratio > 2


def check_what_a_codec_drops_of_an_outer_gradient_comes_with_the_next(scene: Scene) -> None:
    """Averages are applied as they are (no outer optimizer): nothing of the movements is gone."""
    model = MLP()
    name, weight = "layers.1.weight", model.layers[1].weight
    wanted = torch.zeros_like(weight, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwire.torch.LocalSGD(
        model, optimizer, scene.comm, every=2, codec="int4", min_numel=64, timeout=20
    ) as local:
        start = weight.detach().double()
        for step in range(8):
            anchor = local.state_dict()[f"anchor/{name}"].double()
            model.zero_grad()
            model(scene.batch(step)).square().mean().backward()
            optimizer.step()
            if step % 2:
                wanted += scene.sum(weight.detach().double() - anchor)
            assert local.stepped() == bool(step % 2)
        left = scene.sum(local.state.residuals.read(weight).view(weight.shape))
        assert float(left.abs().max()) > 0
        # the residual is of anchor - parameters
        got = scene.size * (weight.detach().double() - start) - left
        assert float((got - wanted).abs().max() / wanted.abs().max()) < 2e-5


def check_a_checkpoint_continues_exactly(scene: Scene) -> None:
    model = MLP()
    with diloco(scene, model, "int4") as d:
        train(d, model, scene, 3)
        file = io.BytesIO()
        torch.save([model.state_dict(), d._inner.state_dict(), d._outer.state_dict(), d.state_dict()], file)
        train(d, model, scene, 4, 3)
        file.seek(0)
        saved = torch.load(file)
        torch.manual_seed(9)
        again = MLP()
        with diloco(scene, again, "int4") as d2:
            again.load_state_dict(saved[0])
            d2._inner.load_state_dict(saved[1])
            d2._outer.load_state_dict(saved[2])
            d2.load_state_dict(saved[3])
            train(d2, again, scene, 4, 3)
            assert digest(model) == digest(again) and d2.local_steps == 1
            train(d2, again, scene, 2, 7)
            train(d, model, scene, 2, 7)
            assert digest(model) == digest(again)
            del saved[3]["anchor/layers.0.weight"]
            assert "layers.0.weight" in str(
                raises(gradwire.ArgumentError, lambda: d2.load_state_dict(saved[3]))
            )


def check_mistakes_and_lost_peers(scene: Scene) -> None:
    model = MLP()
    for wrong in ({"every": 0}, {"overlap": "next-batch"}):
        raises(gradwire.ArgumentError, lambda w=wrong: diloco(scene, model, **w))
    error = raises(
        gradwire.ArgumentError,
        lambda: gradwire.torch.DiLoCo(model, inner(model), outer(MLP()), scene.comm, every=2),
    )
    assert "outer optimizer lacks" in str(error)

    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/meeting", timeout=10)
    own = Scene(scene.rank, 2, comm, scene.folder)
    d = diloco(own, model, "int8", timeout=0.5)
    train(d, model, scene, 2)
    scene.sum(torch.zeros(1))
    if scene.rank == 0:
        alone = digest(model)
        assert raises(gradwire.Timeout, d.sync).rank == 1  # type: ignore[attr-defined]
        assert digest(model) == alone, "a failed meeting changed the parameters"
    scene.sum(torch.zeros(1))
    comm.reconfigure(scene.rank, 2)
    d.sync()
    scene.same_everywhere(model)
    d.close()
    raises(gradwire.Closed, d.sync)
    comm.close()
