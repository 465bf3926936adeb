"""torch.compile around a hooked DDP model. Two ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from parity import STEP, average_is_off_by, largest
from scene import MLP, Scene, assert_same, grads
from torch.nn.parallel import DistributedDataParallel


def compiled_both_ways() -> Iterator[str]:
    """In which torch.compile treats DDP; python_reducer traces the hook under compiled autograd."""
    config = torch._dynamo.config
    before = (config.optimize_ddp, config.compiled_autograd)
    try:
        for mode, autograd in (("ddp_optimizer", False), ("python_reducer", True)):
            config.optimize_ddp, config.compiled_autograd = mode, autograd
            yield mode
    finally:
        config.optimize_ddp, config.compiled_autograd = before
        torch._dynamo.reset()


def check_torch_compile(scene: Scene) -> None:
    base = MLP()
    plain = DistributedDataParallel(copy.deepcopy(base))
    for _ in compiled_both_ways():
        model = copy.deepcopy(base)
        m, handle = scene.ddp(model, None)
        compiled = torch.compile(m, backend="aot_eager")
        for step in range(2):
            for n in (compiled, plain):
                n.zero_grad()
                n(scene.batch(step)).square().mean().backward()
            assert_same(grads(plain.module), grads(model))
        assert handle.stats().steps == 2
        handle.close()


def check_torch_compile_with_a_codec(scene: Scene) -> None:
    base = MLP()
    for mode in compiled_both_ways():
        model = copy.deepcopy(base)
        m, handle = scene.ddp(model, "int8", error_feedback=False)
        compiled = torch.compile(m, backend="aot_eager")
        for step in range(2):
            alone = copy.deepcopy(base)
            alone(scene.batch(step)).square().mean().backward()
            model.zero_grad()
            compiled(scene.batch(step)).square().mean().backward()
            lost = 0.0
            for p, own in zip(model.parameters(), alone.parameters()):
                assert torch.equal(scene.sum(p.grad), scene.size * p.grad.double()), f"{mode}: ranks differ"
                mean = scene.sum(own.grad) / scene.size
                lost = max(lost, float((p.grad - mean).abs().max()))
            most = largest(p.grad for p in alone.parameters())
            assert 0 < lost <= average_is_off_by(most, STEP["int8"]), f"{mode}, step {step}: {lost}"
        handle.close()
