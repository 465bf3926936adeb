"""The function DDP calls for every bucket.

DDP compares the annotations with the very objects below, so this file must not turn them into strings (no
`from __future__ import annotations`), the second parameter must be called `bucket`, and the hook must be a
plain function.
"""

import torch
import torch.distributed as dist

from .state import HookState


def all_reduce_hook(
    state: HookState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's stubs lack it
) -> torch.futures.Future[torch.Tensor]:
    """Averages the bucket over the ranks of `state.comm`, in place, coded as `state` says.

    >>> state = gradwire.torch.HookState(comm, "int8")                  # doctest: +SKIP
    >>> ddp.register_comm_hook(state, gradwire.torch.all_reduce_hook)  # doctest: +SKIP
    """
    return state.reduce(bucket)
