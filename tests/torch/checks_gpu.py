"""The hook and the bucketer on GPU gradients: everything is the CPU's, bit for bit. Two ranks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from gpu_place import DEVICE, SIMULATED, Shown, on_gpu
from scene import Scene, raises, refused
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

warnings.filterwarnings("ignore")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALL = {"bucket_cap_mb": 0.02}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


class Given(nn.Module):
    """The gradient of every parameter is a tensor that is passed: the same bits on every device."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        shapes = ((90, 50), (90,), (40, 90), (3, 1), (70, 41), (2100,))
        self.values = nn.ParameterList(nn.Parameter(torch.zeros(s, dtype=dtype)) for s in shapes)

    def forward(self, wanted: list[torch.Tensor], used: int) -> torch.Tensor:
        return torch.stack([(p * g).sum() for p, g in list(zip(self.values, wanted))[:used]]).sum()


def wanted(model: Given, step: int, rank: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1000 * step + rank)
    return [torch.randn(p.shape, generator=draw).to(p.dtype).to(p.device) for p in model.values]


@contextmanager
def placed(where: str) -> Iterator[str]:
    """The device of torch's tensors."""
    with on_gpu() if where == "gpu" else nullcontext():
        yield DEVICE if where == "gpu" else "cpu"


class Run:
    """A hooked model, in one of the two places."""

    def __init__(self, scene: Scene, where: str, dtype: torch.dtype, codec: Any, **options: Any) -> None:
        self.scene, self.where, self.step = scene, where, 0
        ddp = options.pop("ddp", {})
        with placed(where) as device:
            self.model = Given(dtype).to(device)
            how = {"min_numel": 64, **options}
            if options.pop("bucketer", False):
                del how["bucketer"]
                named = self.model.named_parameters()
                sizes = {"bucket_mb": 0.02, "first_bucket_mb": 0.01}
                self.handle: Any = gradwire.torch.GradientBucketer(named, scene.comm, codec, **sizes, **how)
                self.net: Any = self.model
            else:
                self.net = DistributedDataParallel(self.model, **SMALL, **ddp)
                self.handle = gradwire.torch.attach(self.net, codec, **{"comm": scene.comm, **how})

    def go(self, steps: int, used: int = 6) -> list[torch.Tensor]:
        """Bits of all gradients of the last step; zeros for None."""
        with placed(self.where):
            for _ in range(steps):
                self.net.zero_grad()
                self.net(wanted(self.model, self.step, self.scene.rank), used).backward()
                if isinstance(self.handle, gradwire.torch.GradientBucketer):
                    self.handle.wait()
                self.step += 1
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.model.values]
            return [g.detach().contiguous().cpu().view(BITS[g.dtype]).clone() for g in grads]

    def state(self) -> dict[str, torch.Tensor]:
        with placed(self.where):
            return self.handle.state_dict()  # type: ignore[no-any-return]

    def close(self) -> None:
        self.handle.close()


def same(a: Any, b: Any, what: str) -> None:
    assert len(a) == len(b), what
    for i, (x, y) in enumerate(zip(a, b)):
        assert torch.equal(x, y), f"{what}: gradient {i} differs in {int((x != y).sum())} of {x.numel()}"


def same_state(a: Run, b: Run, what: str) -> None:
    x, y = a.state(), b.state()
    assert x.keys() == y.keys()
    for key in x:
        assert x[key].device.type == y[key].device.type == "cpu", key
        assert torch.equal(x[key], y[key]), f"{what}: {key} differs"


def alike(scene: Scene, dtype: torch.dtype, codec: Any, **options: Any) -> None:
    """3 steps give the CPU's gradients and residuals, and every rank the same."""
    used = options.pop("used", 6)
    cpu, gpu = (Run(scene, where, dtype, codec, **dict(options)) for where in ("cpu", "gpu"))
    what = f"{codec} {dtype} {options}"
    for _ in range(3):
        got = gpu.go(1, used)
        same(cpu.go(1, used), got, what)
        for g in got:
            assert torch.equal(scene.sum(g), 2 * g.double()), f"{what}: ranks differ"
    same_state(cpu, gpu, what)
    cpu.close()
    gpu.close()


def check_gradients_and_residuals_on_a_gpu_are_those_on_the_cpu(scene: Scene) -> None:
    for codec in (None, "int8", "int4", "topk(ratio=0.1)"):
        for dtype in DTYPES:
            alike(scene, dtype, codec)


def check_a_bucketers_are_too(scene: Scene) -> None:
    for codec in (None, "int4"):
        alike(scene, torch.float32, codec, bucketer=True)
    alike(scene, torch.bfloat16, "int8", bucketer=True, find_unused_parameters=True, used=3 + scene.rank)


def check_a_parameter_that_no_rank_used_keeps_its_residual(scene: Scene) -> None:
    ddp = {"find_unused_parameters": True}
    cpu, gpu = (Run(scene, where, torch.float32, "int4", ddp=dict(ddp)) for where in ("cpu", "gpu"))
    for used in (6, 6, 4, 4 + scene.rank, 3, 6):
        same(cpu.go(1, used), gpu.go(1, used), f"{used} used")
        same_state(cpu, gpu, f"{used} used")
    cpu.close()
    gpu.close()


def check_a_policy_a_warm_up_and_reducers_work_on_a_gpu(scene: Scene) -> None:
    ramp = gradwire.Stages({0: "int4", 2: None})
    policy = {"values.0": "int8", "values.2": ramp, "*.4": "int4", "*": None}
    alike(scene, torch.float32, policy)
    alike(scene, torch.bfloat16, "int8", warmup_steps=2)
    for dtype in (torch.float32, torch.bfloat16):
        alike(scene, dtype, "global_topk(ratio=0.05)")
    alike(scene, torch.bfloat16, "powersgd(rank=2)")
    alike(scene, torch.float32, "rice4")  # has no kernels: it is coded in host memory


def check_next_batch_holds_averages_on_a_gpu(scene: Scene) -> None:
    alike(scene, torch.float32, "int8", overlap="next-batch")


def check_a_state_saved_in_one_place_loads_in_the_other(scene: Scene) -> None:
    for storage in ("fp32", "bf16", "int8"):
        how = (torch.float32, "int4")
        begun = {where: Run(scene, where, *how, residual=storage) for where in ("cpu", "gpu")}
        for run in begun.values():
            run.go(3)
        for saved, loaded in (("cpu", "gpu"), ("gpu", "cpu")):
            on = Run(scene, loaded, *how, residual=storage)
            on.handle.load_state_dict(begun[saved].state())
            on.step = 3
            ahead = Run(scene, saved, *how, residual=storage)
            ahead.handle.load_state_dict(begun[saved].state())
            ahead.step = 3
            same(ahead.go(2), on.go(2), f"{storage}, {saved} to {loaded}")
            same_state(ahead, on, f"{storage}, {saved} to {loaded}")
            on.close()
            ahead.close()
        for run in begun.values():
            run.close()


def check_norms_and_figures_are_told_of_a_gpu(scene: Scene) -> None:
    runs = [Run(scene, where, torch.float32, "int4") for where in ("cpu", "gpu")]
    norms = []
    for run in runs:
        run.go(2)
        with placed(run.where):
            stats = run.handle.stats()
        assert stats.steps == 2 and stats.ratio > 2
        norms.append(stats.residual_norm)
        run.close()
    assert abs(norms[0] - norms[1]) < 1e-6 * norms[0]


def check_errors_of_a_gpu_bucket_come_from_backward(scene: Scene) -> None:
    run = Run(scene, "gpu", torch.float32, "int8")
    run.go(2)
    run.handle.state.algorithm = "no such algorithm"
    raises(gradwire.ArgumentError, run.go, 1)
    run.handle.state.algorithm = "auto"
    run.go(2)
    run.close()


def check_local_sgd_meets_on_a_gpu(scene: Scene) -> None:
    ends = []
    for where in ("cpu", "gpu"):
        with placed(where) as device:
            model = Given(torch.float32).to(device)
            inner = torch.optim.SGD(model.parameters(), lr=0.125)
            local = gradwire.torch.LocalSGD(model, inner, scene.comm, every=2, codec="int8")
            for step in range(4):
                inner.zero_grad()
                model(wanted(model, step, scene.rank), 6).backward()
                met = local.step()
            assert met
            ends.append([p.detach().cpu().clone() for p in model.parameters()])
            local.close()
    same(*ends, "LocalSGD")


def check_a_carrier_codes_on_a_gpu(scene: Scene) -> None:
    if not SIMULATED:  # Gloo sends no CUDA tensors like this, NCCL wants a GPU a rank: see test_engines.py
        return
    for codec in ("int8", "int4", "topk(ratio=0.1)", "int4(rounding=stochastic)"):
        for dtype in DTYPES:
            ends = []
            for where in ("cpu", "gpu"):
                with placed(where), contextlib.closing(gradwire.torch.Carrier()) as carrier:
                    carrier._coded.piece = 1024  # so that there are several
                    x = torch.randn(5001, generator=torch.Generator().manual_seed(scene.rank)).to(dtype)
                    owed = torch.zeros(5001)
                    for _ in range(2):
                        carrier.all_reduce(x, "avg", codec, residual=owed)
                    share, every = x[:5000].clone(), x[:50].clone()
                    share = carrier.reduce_scatter(share, codec=codec)
                    every = carrier.all_gather(every, codec=codec, async_op=True).wait()
                    carrier.broadcast(x, 1, codec)
                    ends.append([t.view(torch.uint8).clone() for t in (x, owed, share, every)])
            same(*ends, f"{codec} {dtype}")
    with placed("gpu"), contextlib.closing(gradwire.torch.Carrier()) as carrier:
        refused("int4", carrier.all_reduce, torch.ones(8), codec="rice4")


class _OfTensors(gradwire.torch.Carrier):
    """Gets the tensors themselves, as on a GPU."""

    def all_reduce(self, x: Any, *arguments: Any, residual: Any = None, **more: Any) -> Any:
        x, residual = (a.tensor if isinstance(a, Shown) else a for a in (x, residual))
        return super().all_reduce(x, *arguments, residual=residual, **more)


def check_a_hook_on_a_carrier_codes_on_a_gpu(scene: Scene) -> None:
    if not SIMULATED:
        return
    runs = []
    for where in ("cpu", "gpu"):
        carrier = _OfTensors(dist.new_group())
        runs.append((Run(scene, where, torch.bfloat16, "int8", comm=carrier), carrier))
    for _ in range(3):
        same(*(run.go(1) for run, _ in runs), "a carrier's gradients")
    same_state(*(run for run, _ in runs), "a carrier's residuals")
    for run, carrier in runs:
        run.close()
        carrier.close()


def check_other_devices_are_refused(scene: Scene) -> None:
    meta = [nn.Parameter(torch.empty(4, 4, device="meta"))]
    error = raises(gradwire.ArgumentError, gradwire.torch.GradientBucketer, meta, scene.comm)
    assert "CPU and CUDA" in str(error), error
    assert SIMULATED or torch.cuda.is_available()
