"""The one line: `handle = gradwire.torch.attach(ddp, codec="int8")`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

from . import device
from .buckets import FIRST_MB, auto_mb
from .handle import Handle, communicator_for
from .hook import HookState, all_reduce_hook
from .private import has_own_bucket_sizes, regroup
from .state import CodecChoice, of_state
from .trace import HookTrace


class _OfDDP(Handle):
    def __init__(self, ddp: DistributedDataParallel, state: HookState, owns_comm: bool) -> None:
        super().__init__(state, owns_comm)
        self._ddp = weakref.ref(ddp)

    @contextmanager
    def _watch(self, recorded: HookTrace) -> Iterator[None]:
        ddp = self._ddp()
        if ddp is None:
            yield
            return
        # the end of forward is the nearest moment that DDP lets anyone see
        watch = ddp.register_forward_hook(lambda *_: recorded.backward_begins(time.monotonic()))
        try:
            yield
        finally:
            watch.remove()


def attach(
    ddp: DistributedDataParallel,
    codec: CodecChoice = "int8",
    comm: Communicator | None = None,
    *,
    bucket_cap_mb: float | str | None = "auto",
    **options: Any,
) -> Handle:
    """Lets gradwire average the gradients of `ddp`. Call it on every rank, before the first backward.

    codec: a name such as "int8", "auto" (which measures the links if nobody has: some seconds, once per set
    of hosts), "powersgd(rank=2)", a `gradwire.Stages` such as
    `gradwire.warmup("topk(ratio=0.01)", steps=150)`, or a policy by parameter name, first match wins:
    `{"*.bias": None, "embed.*": "int8", "*": "int4"}`; see `HookState`.

    overlap="next-batch" (off by default) hides communication behind a whole step, at the price of gradients
    that are exactly one step old; the first step's `grad` is None, and `Handle.flush` brings the last one's.

    bucket_cap_mb: MiB of gradient that travel together. "auto": small enough to leave while backward still
    computes (4 on up to 4 ranks, the first one 1), unless `ddp` was made with sizes of its own; None: as
    `ddp` was made. DDP's default is 25.

    Without `comm`, one is made over the ranks of `ddp.process_group`, through its store. Options:
    `transport`, `timeout` and others of `gradwire.init` for that communicator; those of `HookState` for the
    rest. carrier: a torch process group of the same ranks, of any backend, through whose own collectives the
    payloads travel instead (see `Carrier`).

    >>> ddp = torch.nn.parallel.DistributedDataParallel(model)             # doctest: +SKIP
    >>> handle = gradwire.torch.attach(ddp, codec="int8")                  # doctest: +SKIP
    >>> handle.stats().ratio                                               # doctest: +SKIP
    3.9
    """
    if not isinstance(ddp, DistributedDataParallel):
        raise ArgumentError(
            f"attach() wants a DistributedDataParallel model, got {type(ddp).__name__}: wrap it first, or "
            "use gradwire.torch.GradientBucketer without DDP"
        )
    for name, p in ddp.named_parameters():
        if p.requires_grad:
            device.check(p.device, f"parameter {name}")
    if options.get("overlap") == "next-batch" and ddp.find_unused_parameters:
        raise ArgumentError(
            'overlap="next-batch" needs find_unused_parameters=False: DDP throws away what it holds for a '
            "parameter that the next step does not use; GradientBucketer can do both"
        )
    if ddp.find_unused_parameters and options.get("carrier") is ddp.process_group:
        raise ArgumentError(
            "with find_unused_parameters=True DDP itself uses its group during backward: give the carrier "
            "one of its own, torch.distributed.new_group()"
        )
    if isinstance(bucket_cap_mb, str) and bucket_cap_mb != "auto":
        raise ArgumentError(f'bucket_cap_mb must be a number of MiB, "auto" or None, got {bucket_cap_mb!r}')
    if isinstance(bucket_cap_mb, (int, float)) and bucket_cap_mb <= 0:
        raise ArgumentError(f"bucket_cap_mb must be above 0 MiB, got {bucket_cap_mb}")
    mine, settings = of_state(options, given_comm=comm is not None)
    with communicator_for(comm, ddp.process_group, settings) as (used, owns_comm):
        state = HookState(
            used,
            codec,
            process_group=ddp.process_group,
            named_parameters=ddp.named_parameters(),
            may_be_unused=ddp.find_unused_parameters or ddp.static_graph,
            **mine,
        )
        handle = _OfDDP(ddp, state, owns_comm)
        if isinstance(bucket_cap_mb, (int, float)):
            regroup(ddp, bucket_cap_mb, min(FIRST_MB, bucket_cap_mb))
        elif bucket_cap_mb == "auto" and not has_own_bucket_sizes(ddp):
            regroup(ddp, auto_mb(used.size), FIRST_MB)
        ddp.register_comm_hook(state, all_reduce_hook)
    return handle
