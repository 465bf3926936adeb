"""The hook's own promises: registration, values, policy, errors, state, figures. Two ranks."""

from __future__ import annotations

import copy
import inspect
import io
import json
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
from scene import MLP, Scene, assert_same, digest, grads, raises
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch
from gradwire.torch.rules import Rules

warnings.filterwarnings("ignore")


def train(model: Any, scene: Scene, steps: int = 4, first: int = 0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        model(scene.batch(step)).square().mean().backward()
        optimizer.step()


# -- registration ------------------------------------------------------------------------------------------
def check_the_hook_has_the_signature_ddp_demands(scene: Scene) -> None:
    signature = inspect.signature(gradwire.torch.all_reduce_hook)
    assert list(signature.parameters)[1] == "bucket"
    assert signature.parameters["bucket"].annotation is dist.GradBucket
    assert signature.return_annotation == torch.futures.Future[torch.Tensor]
    assert gradwire.torch.all_reduce_hook.__qualname__ == "all_reduce_hook"  # DDP logs it


def check_the_long_form(scene: Scene) -> None:
    ddp = DistributedDataParallel(MLP())
    state = gradwire.torch.HookState(scene.comm, gradwire.codec("int8", block=64))
    ddp.register_comm_hook(state, gradwire.torch.all_reduce_hook)
    train(ddp, scene)
    scene.same_everywhere(ddp)
    assert state.stats().steps == 4
    assert "named_parameters" in str(raises(gradwire.ArgumentError, state.state_dict))
    state.close()


def check_attach_makes_and_closes_its_own_communicators(scene: Scene) -> None:
    models = [DistributedDataParallel(MLP()) for _ in range(2)]
    handles = [gradwire.torch.attach(m, "int8", transport="tcp") for m in models]
    for m in models:
        train(m, scene, 2)
        scene.same_everywhere(m)
    assert handles[0].comm.peers()[1 - scene.rank][0] == "tcp"
    for handle in handles:
        handle.close()
        handle.close()
    raises(gradwire.Closed, lambda: models[0](scene.batch(9)).sum().backward())
    raises(gradwire.Closed, lambda: models[0](scene.batch(9)).sum().backward())  # and DDP still works


def check_attach_refuses_what_it_cannot_do(scene: Scene) -> None:
    raises(gradwire.ArgumentError, lambda: gradwire.torch.attach(MLP()))
    hooked, handle = scene.ddp(MLP())
    error = raises(RuntimeError, lambda: gradwire.torch.attach(hooked, comm=scene.comm))
    assert "once" in str(error)
    raises(gradwire.ArgumentError, lambda: scene.ddp(MLP(), "int9"))
    raises(gradwire.ArgumentError, lambda: gradwire.torch.attach(hooked, comm=scene.comm, transport="tcp"))
    handle.close()


# -- values ------------------------------------------------------------------------------------------------
def check_the_future_holds_the_bucket_itself(scene: Scene) -> None:
    state = gradwire.torch.HookState(scene.comm, "int8", min_numel=64)
    seen = []

    def spy(s: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        future = gradwire.torch.all_reduce_hook(s, bucket)
        seen.append((future, bucket.buffer().data_ptr(), bucket.buffer().numel()))
        return future

    # this file's annotations are strings, which DDP refuses: the real hook's are not
    spy.__annotations__ = {}
    ddp = DistributedDataParallel(MLP(), bucket_cap_mb=0.005)
    ddp.register_comm_hook(state, spy)
    train(ddp, scene, 3)
    assert len(seen) > 3
    for future, address, numel in seen:
        assert (future.value().data_ptr(), future.value().numel()) == (address, numel)
    state.close()


def check_small_and_1d_parameters_stay_dense(scene: Scene) -> None:
    base = MLP(32, 48, 3)
    base.register_parameter("tiny", nn.Parameter(torch.ones(3, 5)))
    base.register_parameter("long", nn.Parameter(torch.ones(4096)))

    def loss(m: Any) -> torch.Tensor:
        return m(scene.batch(0)).square().mean() + (own(m).tiny.sum() * own(m).long.sum()) * (1 + scene.rank)

    def own(m: Any) -> Any:
        return getattr(m, "module", m)

    got = {}
    for kind, codec, options in (
        ("plain", None, {}),
        ("default", "int4", {}),
        ("1d too", "int4", {"dense_1d": False}),
        ("all", "int4", {"dense_1d": False, "min_numel": 0}),
        ("none", "int4", {"min_numel": 1 << 30}),
    ):
        m, handle = scene.ddp(copy.deepcopy(base), codec, **options)
        loss(m).backward()
        got[kind] = grads(own(m))
        handle.close()

    def exact(kind: str, name: str) -> bool:
        return torch.equal(got[kind][name], got["plain"][name])

    matrix, bias = "layers.0.weight", "layers.0.bias"
    assert not exact("default", matrix) and not exact("all", matrix)
    assert exact("default", bias) and exact("default", "tiny") and exact("default", "long")
    assert exact("1d too", bias) and exact("1d too", "tiny")  # 48 and 15 elements: below min_numel
    assert not exact("all", bias)
    assert_same(got["none"], got["plain"])


def check_warmup_steps_are_dense(scene: Scene) -> None:
    base = MLP()
    a, ha = scene.ddp(copy.deepcopy(base), None)
    b, hb = scene.ddp(copy.deepcopy(base), "topk(ratio=0.05)", warmup_steps=3)
    for step in range(5):
        for m in (a, b):
            m.zero_grad()
            m(scene.batch(step)).square().mean().backward()
        same = torch.equal(a.module.layers[0].weight.grad, b.module.layers[0].weight.grad)
        assert same == (step < 3), f"step {step}"
    ha.close()
    hb.close()


def check_replicas_stay_equal_and_runs_repeat_for_every_codec(scene: Scene) -> None:
    for codec in [None, *gradwire.codecs(), "int8(block=128)", "topk(ratio=0.1,values=int8)"]:
        ends = []
        for run in range(2):
            # a run begins with a communicator of its own: codecs that draw at random go by its count of calls
            place = f"file://{scene.folder}/repeat-{codec}-{run}"
            comm = gradwire.init(rank=scene.rank, size=scene.size, store=place, timeout=20)
            own = Scene(scene.rank, scene.size, comm, scene.folder)
            torch.manual_seed(3)
            m, handle = own.ddp(MLP(), codec, {"bucket_cap_mb": 0.005})
            train(m, own, 4)
            own.same_everywhere(m)
            ends.append(digest(m))
            handle.close()
            comm.close()
        assert ends[0] == ends[1], f"two runs with {codec} differ"


def check_error_feedback_can_be_switched_off(scene: Scene) -> None:
    m, handle = scene.ddp(MLP(), "int4", error_feedback=False)
    train(m, scene, 2)
    scene.same_everywhere(m)
    assert handle.stats().residual_norm == 0
    handle.close()


def check_residuals_may_rest_in_fewer_bytes(scene: Scene) -> None:
    """Each rest between two steps rounds a residual to at most 2^-7 of its largest element (int8, bf16)."""
    steps = 4
    for storage, bytes_each in (("fp32", 4.0), ("bf16", 2.0), ("int8", 1.05)):
        torch.manual_seed(7)
        local = MLP()
        m, handle = scene.ddp(copy.deepcopy(local), "int4", {"bucket_cap_mb": 0.005}, residual=storage)
        name, weight = "layers.1.weight", m.module.layers[1].weight
        missing, largest = torch.zeros_like(weight, dtype=torch.float64), 0.0
        for step in range(steps):
            for n in (local, m):
                n.zero_grad()
                n(scene.batch(step)).square().mean().backward()
            missing += scene.sum(grads(local)[name]) - scene.size * grads(m.module)[name].double()
            left = handle.state.residuals.read(weight).view(weight.shape)
            largest = max(largest, float(left.abs().max()))
        slack = 0.0 if storage == "fp32" else scene.size * steps * 2.0**-7 * largest
        assert (
            float((missing - scene.sum(left)).abs().max()) <= slack + 1e-6 * float(missing.abs().max()) + 1e-9
        )
        scene.same_everywhere(m)
        feedback = handle.state.residuals.feedback
        assert feedback.nbytes() <= bytes_each * sum(p.numel() for p in m.parameters() if p.dim() > 1)
        handle.close()
    raises(gradwire.ArgumentError, lambda: scene.ddp(MLP(), "int4", residual="fp8"))


def check_python_reducer_tuples(scene: Scene) -> None:
    """Without DDP's C++ reducer the hook gets (gradient, parameter) and must change the gradient in place."""
    base = nn.Sequential(
        MLP(), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 8, 3).to(memory_format=torch.channels_last)
    )
    plain = DistributedDataParallel(copy.deepcopy(base))
    before = torch._dynamo.config.optimize_ddp
    torch._dynamo.config.optimize_ddp = "python_reducer"
    try:
        for codec in (None, "int8"):
            model = copy.deepcopy(base)
            m, handle = scene.ddp(model, codec)
            for step in range(3):
                for n in (m, plain):
                    n.zero_grad()
                    n(scene.batch(step)).square().mean().backward()
                if codec is None:
                    assert_same(grads(plain.module), grads(model))
                for p in model.parameters():
                    assert torch.equal(scene.sum(p.grad), scene.size * p.grad.double()), "ranks differ"
            assert handle.stats().steps == 3
            handle.close()
    finally:
        torch._dynamo.config.optimize_ddp = before


# -- state -------------------------------------------------------------------------------------------------
def check_state_dict_continues_a_run_exactly(scene: Scene) -> None:
    m, handle = scene.ddp(MLP(), "int4")
    fresh = handle.state_dict()
    assert int(fresh["step"]) == 0 and int(fresh["world_size"]) == 2
    want = {f"rank{scene.rank}/layers.{i}.weight": m.module.layers[i].weight.numel() for i in range(3)}
    assert {k: v.numel() for k, v in fresh.items() if "/" in k} == want
    assert all(not v.any() for k, v in fresh.items() if "/" in k)

    for step in range(3):  # no optimizer state: only the residuals carry over
        m.zero_grad()
        m(scene.batch(step)).square().mean().backward()
    file = io.BytesIO()
    torch.save(handle.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    again, handle2 = scene.ddp(copy.deepcopy(m.module), "int4")
    handle2.load_state_dict(saved)
    for step in range(3, 6):
        for n in (m, again):
            n.zero_grad()
            n(scene.batch(step)).square().mean().backward()
        assert_same(grads(m.module), grads(again.module))
    assert int(handle2.state_dict()["step"]) == 6
    raises(
        gradwire.ArgumentError,
        lambda: handle2.load_state_dict({"step": saved["step"], "world_size": saved["world_size"]}),
    )
    for h in (handle, handle2):
        h.close()


def check_a_distributed_checkpoint_keeps_every_rank_apart(scene: Scene) -> None:
    from torch.distributed import checkpoint as dcp

    m, handle = scene.ddp(MLP(), "int4")
    train(m, scene, 2)
    want = handle.state_dict()
    dcp.save({"gradwire": handle}, checkpoint_id=scene.folder / "dcp")
    _, fresh = scene.ddp(copy.deepcopy(m.module), "int4")
    dcp.load({"gradwire": fresh}, checkpoint_id=scene.folder / "dcp")
    got = fresh.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert any(v.any() for k, v in got.items() if "/" in k)
    handle.close()
    fresh.close()


# -- figures -----------------------------------------------------------------------------------------------
def check_stats_count_bytes_and_time(scene: Scene) -> None:
    dense, h1 = scene.ddp(MLP(256, 512, 3), None)
    coded, h2 = scene.ddp(MLP(256, 512, 3), "int8")
    for m in (dense, coded):
        for step in range(2):
            m(scene.batch(step, (4, 256))).square().mean().backward()
    bytes_ = 4 * sum(p.numel() for p in dense.parameters())
    a, b = h1.stats(), h2.stats()
    assert a.steps == b.steps == 2
    assert a.dense_bytes_per_step == b.dense_bytes_per_step == bytes_  # 2 (n-1)/n of it, n = 2
    assert 1 <= a.bytes_per_step / bytes_ < 1.02 and 0.98 < a.ratio <= 1
    assert 3.6 < b.ratio < 4 and 3.6 < b.last_dense_bytes / b.last_bytes < 4
    assert 0 < b.exposed_s_per_step < 1 and b.residual_norm > 0 == a.residual_norm
    h1.close()
    h2.close()


def check_buckets_travel_while_backward_computes(scene: Scene) -> None:
    """Of the same process' trace: bucket i is under way (native threads) while the backward thread computes
    i + 1."""
    m, handle = scene.ddp(MLP(256, 512, 12), "int8", {"bucket_cap_mb": 1})
    for step in range(3):
        m(scene.batch(step, (64, 256))).square().mean().backward()
    path = scene.folder / f"trace{scene.rank}.json"
    with handle.trace(path) as trace:
        for step in range(3):
            m(scene.batch(step, (64, 256))).square().mean().backward()
    assert trace.hidden_share() > 0.05, f"only {trace.hidden_share():.1%} of the communication was hidden"
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["name"].split(" ")[0] for e in events}
    assert {"backward", "bucket", "all_reduce"} <= names, names
    spans = [e for e in events if e["ph"] == "X"]
    assert all(e["dur"] >= 0 for e in spans)
    handle.close()


# -- errors ------------------------------------------------------------------------------------------------
def check_a_mismatch_is_raised_from_backward_and_ddp_lives_on(scene: Scene) -> None:
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/mismatch", timeout=10)
    for ddp in ({}, {"static_graph": True}, {"gradient_as_bucket_view": True}):
        m = DistributedDataParallel(MLP(), bucket_cap_mb=0.005, **ddp)
        handle = gradwire.torch.attach(m, "int8", comm=comm, min_numel=64)
        train(m, scene, 3)
        right = handle.state.rules
        if scene.rank == 1:
            handle.state.rules = Rules("int4", min_numel=64)
        raises(gradwire.MismatchError, lambda m=m: m(scene.batch(3)).square().mean().backward())
        handle.state.rules = right
        comm.reconfigure(scene.rank, 2)
        train(m, scene, 2, first=4)
        handle.close()
    comm.close()


def check_a_silent_peer_is_a_timeout_from_backward(scene: Scene) -> None:
    comm = gradwire.init(rank=scene.rank, size=2, store=f"file://{scene.folder}/silent", timeout=10)
    m = DistributedDataParallel(MLP())
    handle = gradwire.torch.attach(m, "int8", comm=comm, timeout=0.5)
    train(m, scene, 2)
    dist.barrier()
    begin = time.monotonic()
    if scene.rank == 0:
        error = raises(gradwire.Timeout, lambda: m(scene.batch(2)).square().mean().backward())
        assert error.rank == 1, error
        assert time.monotonic() - begin < 5
    dist.barrier()
    handle.close()
    comm.close()


def check_errors_of_the_library_itself_do_not_hang_backward(scene: Scene) -> None:
    m, handle = scene.ddp(MLP(), "int8")
    train(m, scene, 2)
    handle.state.algorithm = "no such algorithm"
    raises(gradwire.ArgumentError, lambda: m(scene.batch(2)).square().mean().backward())
    handle.state.algorithm = "auto"
    train(m, scene, 2, first=3)
    scene.same_everywhere(m)
    handle.close()
