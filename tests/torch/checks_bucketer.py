"""GradientBucketer: what DDP gives without DDP. Two ranks.

codec=None must equal plain DDP bit for bit (two ranks: one order of adding), and a lossy codec must conserve
what it loses.
"""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import torch
from checks_modes import Branches, Mixed
from scene import MLP, Scene, assert_same, check_sums, grads, raises
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

warnings.filterwarnings("ignore")
SMALL = {"bucket_mb": 0.005, "first_bucket_mb": 0.002}


def bucketer(scene: Scene, model: nn.Module, codec: Any = "int8", **options: Any) -> Any:
    options = {"min_numel": 64, **SMALL, **options}
    return gradwire.torch.GradientBucketer(model.named_parameters(), scene.comm, codec, **options)


def square(m: Any, scene: Scene, step: int) -> torch.Tensor:
    getattr(m, "module", m).step = step
    return m(scene.batch(step)).square().mean()


def matches_ddp(scene: Scene, model: nn.Module, loss: Any = square, unused: bool = False) -> None:
    plain = DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=unused)
    with bucketer(scene, model, None, find_unused_parameters=unused) as b:
        for step in range(5):
            for m in (plain, model):
                m.zero_grad(set_to_none=step % 2 == 0)
                loss(m, scene, step).backward()
            b.wait()
            assert_same(grads(plain.module), grads(model))


def conserves(scene: Scene, model: nn.Module, loss: Any = square, **options: Any) -> None:
    local = copy.deepcopy(model)
    produced = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in local.named_parameters()}
    received = copy.deepcopy(produced)
    with bucketer(scene, model, "int4", **options) as b:
        for step in range(5):
            for m in (local, model):
                m.zero_grad()
                loss(m, scene, step).backward()
            b.wait()
            for sums, m in ((produced, local), (received, model)):
                for n, g in grads(m).items():
                    sums[n] += 0 if g is None else g
        check_sums(scene, produced, received, model, b)


def check_gradients_are_those_of_ddp(scene: Scene) -> None:
    matches_ddp(scene, MLP())
    conserves(scene, MLP())
    conserves(scene, MLP(), bucket_mb=25)


def check_every_codec_leaves_the_replicas_equal(scene: Scene) -> None:
    policy = {"*.bias": None, "layers.0.*": "int8", "*": "int4"}
    for codec in (None, "bf16", "int8", "int2", "topk(ratio=0.05)", "powersgd(rank=2)", policy):
        torch.manual_seed(scene.rank)  # replicas start unequal: the bucketer takes rank 0's values
        model = MLP()
        with bucketer(scene, model, codec, **({"min_numel": 0} if isinstance(codec, dict) else {})) as b:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for step in range(4):
                optimizer.zero_grad()
                square(model, scene, step).backward()
                b.synchronize()
                optimizer.step()
            scene.same_everywhere(model)
            assert b.stats().steps == 4


def check_buckets_are_regrouped_by_readiness_and_travel_during_backward(scene: Scene) -> None:
    """The model runs its layers in another order than it names them, and on rank 1 in yet another."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i in range(8):
                x = torch.tanh(self.layers[(3 * i + 2 + 4 * scene.rank) % 8](x))
            return x

    def loss(m: Any, scene: Scene, step: int) -> torch.Tensor:
        return m(scene.batch(step, (64, 256))).square().mean()

    matches_ddp(scene, Shuffled(), loss)
    model = Shuffled()
    with bucketer(scene, model, bucket_mb=0.3, first_bucket_mb=0.3) as b:
        before = [id(p) for bucket in b._buckets for p in bucket.params]
        for step in range(3):
            loss(model, scene, step).backward()
            assert step == 0 or scene.rank == 1 or len(b._futures) > 2, "no bucket went during backward"
            b.wait()
        assert [id(p) for bucket in b._buckets for p in bucket.params] != before
        path = scene.folder / f"bucketer{scene.rank}.json"
        with b.trace(path) as trace:
            for step in range(3):
                loss(model, scene, step).backward()
                b.wait()
        assert scene.rank == 1 or trace.hidden_share() > 0.02, trace.hidden_share()
        assert path.stat().st_size > 1000


def check_no_sync_sends_the_sum_once(scene: Scene) -> None:
    model, plain_model = MLP(), None
    plain_model = copy.deepcopy(model)
    plain = DistributedDataParallel(plain_model)
    with bucketer(scene, model, None) as b:
        for step in range(4):
            plain.zero_grad()
            model.zero_grad()
            with plain.no_sync():
                square(plain, scene, 2 * step).backward()
            square(plain, scene, 2 * step + 1).backward()
            with b.no_sync():
                square(model, scene, 2 * step).backward()
            square(model, scene, 2 * step + 1).backward()
            b.wait()
            assert_same(grads(plain_model), grads(model))
        assert b.stats().steps == 4


def check_unused_parameters(scene: Scene) -> None:
    matches_ddp(scene, Branches(scene.rank), unused=True)
    conserves(scene, Branches(scene.rank), find_unused_parameters=True)


def check_what_accumulated_under_no_sync_is_sent_even_if_the_last_backward_does_not_use_it(
    scene: Scene,
) -> None:
    model = Branches(0)
    with bucketer(scene, model, None, find_unused_parameters=True) as b:
        with b.no_sync():
            square(model, scene, 1).backward()  # layers 1 and 2
        alone = model.layers[2].weight.grad.clone()
        square(model, scene, 2).backward()  # layer 0
        b.wait()
        torch.testing.assert_close(scene.size * model.layers[2].weight.grad, scene.sum(alone).float())
        assert model.layers[3].weight.grad is None


def check_tied_frozen_strided_and_mixed_parameters(scene: Scene) -> None:
    tied = MLP(32, 32, 4)
    tied.layers[1].weight = tied.layers[2].weight
    tied.layers[3].weight.requires_grad_(False)
    matches_ddp(scene, copy.deepcopy(tied))
    conserves(scene, tied)

    def image(m: Any, scene: Scene, step: int) -> torch.Tensor:
        x = scene.batch(step, (2, 3, 8, 8)).to(memory_format=torch.channels_last)
        return m(x).square().mean()

    strided = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)).to(
        memory_format=torch.channels_last
    )
    matches_ddp(scene, copy.deepcopy(strided), image)
    conserves(scene, strided, image)
    # large gradients: DDP halves before it adds, which costs subnormals their last bit
    matches_ddp(scene, Mixed(), lambda m, s, step: 1e4 * square(m, s, step))


def check_clipping_after_wait_is_the_same_on_every_rank(scene: Scene) -> None:
    model = MLP()
    with bucketer(scene, model, "int8") as b:
        for step in range(3):
            model.zero_grad()
            (100 * square(model, scene, step)).backward()
            b.wait()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            assert norm > 0.1 and torch.equal(scene.sum(norm), scene.size * norm.double())
            assert abs(float(nn.utils.get_total_norm(p.grad for p in model.parameters())) - 0.1) < 1e-4


def check_mistakes_are_named_and_training_goes_on(scene: Scene) -> None:
    model = Branches(0)
    with bucketer(scene, model, "int8") as b:
        square(model, scene, 0).backward()
        error = raises(gradwire.ArgumentError, b.wait)
        assert "layers.1.weight" in str(error) and "find_unused_parameters=True" in str(error), error
    model = MLP()
    with bucketer(scene, model, "int8") as b:
        for step in range(3):
            square(model, scene, step).backward()
            error = raises(gradwire.ArgumentError, lambda s=step: square(model, scene, s).backward())
            assert "no_sync" in str(error) and "layers." in str(error), error
            b.wait()
    square(model, scene, 0).backward()  # closed: an ordinary model again
    raises(gradwire.Closed, b.wait)

    table = nn.Embedding(50, 32, sparse=True)
    with bucketer(scene, table) as b:
        error = raises(gradwire.ArgumentError, table(torch.tensor([3])).sum().backward)
        assert "sparse=False" in str(error)
    for wrong in ([], [3], nn.Linear(2, 2, device="meta").parameters()):
        raises(
            gradwire.ArgumentError,
            lambda w=wrong: gradwire.torch.GradientBucketer(w, scene.comm),  # type: ignore[misc]
        )
    raises(gradwire.ArgumentError, lambda: bucketer(scene, MLP(), bucket_mb=0))
    raises(gradwire.ArgumentError, lambda: bucketer(scene, MLP(), transport="tcp"))


def check_errors_of_the_network_come_out_of_wait(scene: Scene) -> None:
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/bucketer", timeout=10)
    own = Scene(scene.rank, 2, comm, scene.folder)
    model = MLP()
    with bucketer(own, model, timeout=0.5) as b:
        square(model, scene, 0).backward()
        b.wait()
        scene.sum(torch.zeros(1))
        if scene.rank == 0:
            square(model, scene, 1).backward()
            assert raises(gradwire.Timeout, b.wait).rank == 1  # type: ignore[attr-defined]
        scene.sum(torch.zeros(1))
        comm.reconfigure(scene.rank, 2)
        for step in range(2, 4):
            model.zero_grad()
            square(model, scene, step).backward()
            b.wait()
    comm.close()


def check_its_own_communicator_and_plain_parameters(scene: Scene) -> None:
    model = MLP()
    b = gradwire.torch.GradientBucketer(model.parameters(), transport="tcp")
    assert b.comm.peers()[1 - scene.rank][0] == "tcp"
    square(model, scene, 0).backward()
    b.wait()
    b.close()
    b.close()
    raises(gradwire.Closed, b.comm.barrier)


def check_state_continues_a_run_exactly(scene: Scene) -> None:
    model = MLP()
    with bucketer(scene, model, "int4") as b:
        for step in range(3):
            model.zero_grad()
            square(model, scene, step).backward()
            b.wait()
        file = io.BytesIO()
        torch.save(b.state_dict(), file)
        file.seek(0)
        again = copy.deepcopy(model)
        with bucketer(scene, again, "int4") as b2:
            b2.load_state_dict(torch.load(file))
            for step in range(3, 6):
                for m, its in ((model, b), (again, b2)):
                    m.zero_grad()
                    square(m, scene, step).backward()
                    its.wait()
                assert_same(grads(model), grads(again))
