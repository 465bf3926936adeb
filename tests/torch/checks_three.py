"""Three ranks: a sum whose order matters, and a rank that dies. Rank 2 does not survive this file."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scene import MLP, Scene, digest
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import reference

warnings.filterwarnings("ignore")


def check_plain_gradients_equal_a_numpy_sum_in_documented_order(scene: Scene) -> None:
    for algorithm in ("direct", "ring", "double_tree"):
        state = gradwire.torch.HookState(scene.comm, None, algorithm=algorithm)
        pairs: list[Any] = []

        def spy(s: Any, bucket: Any, pairs: list[Any] = pairs) -> Any:
            before = bucket.buffer().clone()
            future = gradwire.torch.all_reduce_hook(s, bucket)
            pairs.append((before, bucket.buffer()))
            return future

        spy.__annotations__ = {}
        ddp = DistributedDataParallel(MLP(64, 100, 4), bucket_cap_mb=0.02)
        ddp.register_comm_hook(state, spy)
        for step in range(3):
            pairs.clear()
            ddp.zero_grad()
            ddp(scene.batch(step, (8, 64))).square().mean().backward()
            for before, after in pairs:
                parts = [torch.empty_like(before) for _ in range(scene.size)]
                dist.all_gather(parts, before)
                want = reference.in_documented_order([p.numpy() for p in parts], algorithm, "avg")
                assert np.array_equal(after.numpy(), want), (
                    f"{algorithm}: {np.abs(after.numpy() - want).max()}"
                )
        assert len(pairs) > 1
        state.close()


def check_killing_a_rank_in_backward_raises_peer_lost_and_the_rest_train_on(scene: Scene) -> None:
    model = MLP(32, 48, 4)
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.005)
    handle = gradwire.torch.attach(ddp, "int8", timeout=20, min_numel=64)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)

    def backward(step: int) -> None:
        optimizer.zero_grad()
        ddp(scene.batch(step)).square().mean().backward()

    for step in range(3):
        backward(step)
        optimizer.step()
    if scene.rank == 2:  # between two of its own buckets
        nn.Module.register_full_backward_hook(
            model.layers[1], lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        )
    try:
        backward(3)
    except gradwire.PeerLost as e:
        assert e.rank == 2, e
        assert e.op == "all_reduce" and e.host, vars(e)
    else:
        raise AssertionError("rank 2 was killed and backward() returned")

    handle.comm.reconfigure(scene.rank, 2, timeout=20)
    for step in range(4, 7):
        backward(step)
        optimizer.step()
    mine = np.frombuffer(bytes.fromhex(digest(model)), np.uint8)
    everyone = handle.comm.all_gather(mine.copy())
    assert np.array_equal(everyone[0], everyone[1]), "the survivors' replicas differ"
    assert handle.stats().steps >= 6
    handle.close()
