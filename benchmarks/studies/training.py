"""One data-parallel training over gradwire: ranks are threads, each with its own model, optimizer and
communicator.

Ranks compute one at a time (a process works on one core) and meet in the collective, which moves every byte
through the in-process transport: same schedules, frames and counters as over sockets.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gradwire
from gradwire.testing import run_ranks

from .codecs import Method
from .tasks import task_of

MIN_NUMEL = 1024  # smaller parameters, and those of one dimension, travel dense: gradwire.torch's own policy


class Gradients:
    """A model's gradients as two flat arrays that backward writes into: one is coded, one stays dense."""

    def __init__(self, model: nn.Module) -> None:
        coded = [p for p in model.parameters() if _is_coded(p)]
        rest = [p for p in model.parameters() if not _is_coded(p)]
        self.coded, self.rest = self._flat(coded), self._flat(rest)
        self.matrices = {name: p.grad for name, p in model.named_parameters() if _is_coded(p)}

    @staticmethod
    def _flat(params: list[nn.Parameter]) -> torch.Tensor:
        flat = torch.zeros(sum(p.numel() for p in params))
        for p, piece in zip(params, flat.split([p.numel() for p in params])):
            p.grad = piece.view_as(p)
        return flat

    def zero(self) -> None:
        self.coded.zero_()
        self.rest.zero_()


def _is_coded(p: nn.Parameter) -> bool:
    return p.dim() >= 2 and p.numel() >= MIN_NUMEL


def choice(method: Method) -> gradwire.Codec | gradwire.PowerSGD | None:
    """A new one: PowerSGD keeps state, each rank has its own."""
    if method.codec is None:
        return None
    return gradwire.PowerSGD.parse(method.codec) or gradwire.codec(method.codec)


def averaging(
    method: Method, gradients: Gradients, comm: gradwire.Communicator, warmup: int
) -> Callable[[int], None]:
    """What averages `gradients` over the ranks in one step, given the step's number."""
    chosen = choice(method)
    low_rank = chosen if isinstance(chosen, gradwire.PowerSGD) else None
    codec = None if low_rank is not None else chosen
    feedback = method.error_feedback and codec is not None and codec.lossy
    residual = torch.zeros_like(gradients.coded) if feedback else None

    def average(step: int) -> None:
        if low_rank is not None:
            low_rank.all_reduce(comm, gradients.matrices)
        elif step < warmup:
            comm.all_reduce(gradients.coded, "avg", algorithm="direct")
        else:
            comm.all_reduce(gradients.coded, "avg", codec=codec, algorithm="direct", residual=residual)
        comm.all_reduce(gradients.rest, "avg", algorithm="direct")

    return average


def digest(model: nn.Module) -> str:
    h = hashlib.sha256()
    for p in model.parameters():
        h.update(p.detach().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def train(
    name: str,
    method: Method,
    seed: int,
    steps: int,
    *,
    ranks: int = 4,
    points: int = 10,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains task `name` from `seed`; returns a row. The same arguments give the same bits.

    points: places of the curve. tick: called after every step. Raises RuntimeError if replicas differ.
    """
    task = task_of(name)
    torch.manual_seed(seed)
    origin = task.model()
    chosen = choice(method)
    turn, ready = threading.Lock(), threading.Barrier(ranks)
    warmup = round(method.warmup * steps)
    every = max(1, steps // points)
    begin = time.process_time()

    def rank(comm: gradwire.Communicator) -> dict[str, Any]:
        model = copy.deepcopy(origin)
        optimizer = task.optimizer(model)
        gradients = Gradients(model)
        average = averaging(method, gradients, comm, warmup)
        curve, last = [], 0
        for step in range(steps):
            with turn:
                gradients.zero()
                task.loss(model, seed, step, comm.rank).backward()
            ready.wait(1800)  # asleep: waiting inside the collective would first spin on the one core
            before = comm.stats()["bytes_sent"]
            average(step)
            last = comm.stats()["bytes_sent"] - before
            with turn:
                for group in optimizer.param_groups:
                    group["lr"] = task.rate(step, steps)
                optimizer.step()
                if comm.rank == 0:
                    if (step + 1) % every == 0 or step + 1 == steps:
                        sent = comm.stats()["bytes_sent"]
                        curve.append({"step": step + 1, "bytes": sent, **task.held_out(model, final=False)})
                    tick()
        sent = comm.stats()["bytes_sent"]
        held_out: dict[str, float] = {}
        if comm.rank == 0:
            held_out = task.held_out(model, final=True)
        raw = 4 * (gradients.coded.numel() + gradients.rest.numel())
        return {"hash": digest(model), "last": last, "sent": sent, "raw": raw, "curve": curve, **held_out}

    results = run_ranks(ranks, rank, timeout=1800, spin_us=0, channel_bytes=1 << 20, segment_bytes=1 << 17)
    hashes = {r["hash"] for r in results}
    if len(hashes) != 1:
        raise RuntimeError(f"{name}, {method.name}, seed {seed}: replicas differ: {sorted(hashes)}")
    first = results[0]
    dense = 2 * (ranks - 1) / ranks * first["raw"]
    return {
        "task": name,
        "method": method.name,
        "codec": None if chosen is None else str(chosen),
        "error_feedback": method.error_feedback and getattr(chosen, "lossy", chosen is not None),
        "warmup_steps": warmup,
        "seed": seed,
        "ranks": ranks,
        "steps": steps,
        "loss": first["loss"],
        "accuracy": first.get("accuracy"),
        "diverged": not math.isfinite(first["loss"]),
        "bytes_per_step": first["last"],  # rank 0's in the last step: after the warm-up
        "dense_bytes_per_step": dense,
        "ratio": dense / first["last"] if first["last"] else 1.0,
        "bytes_total": first["sent"],
        "params": first["raw"] // 4,
        "hash": first["hash"],
        "cpu_s": time.process_time() - begin,
        "curve": first["curve"],
    }
