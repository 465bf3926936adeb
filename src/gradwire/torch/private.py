"""Every private name of torch that this package leans on, in one place. Tried with torch 2.13.

A torch that lacks one of them raises an ArgumentError that says so, at the call that needs it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from gradwire.errors import ArgumentError

_c10d: Any = dist.distributed_c10d


def _need(name: str) -> Any:
    found = getattr(_c10d, name, None)
    if found is None:
        raise ArgumentError(
            f"torch {torch.__version__} has no torch.distributed.distributed_c10d.{name}; this gradwire was "
            "tried with torch 2.13: install that, or report the version"
        )
    return found


# Untyped: torch's stubs overload every method with forms that no caller of torch.distributed uses.
ProcessGroupBase: Any = dist.ProcessGroup
# Base of what a DeviceMesh accepts in `backend_override`.
BackendOptions: Any = torch._C._distributed_c10d.Backend.Options


def group_named(name: str) -> dist.ProcessGroup:
    found: dist.ProcessGroup = _need("_resolve_process_group")(name)
    return found


def default_group() -> dist.ProcessGroup:
    found: dist.ProcessGroup = _need("_get_default_group")()
    return found


def prefixed(store: Any, prefix: str) -> Any:
    return _need("PrefixStore")(prefix, store)


def store_of(group: dist.ProcessGroup, prefix: str) -> Any:
    """The group's own store, under a prefix."""
    return prefixed(_need("_get_process_group_store")(group), prefix)


_PIPELINE = (
    "clear_runtime_states",
    "get_fwd_send_ops",
    "get_fwd_recv_ops",
    "get_bwd_send_ops",
    "get_bwd_recv_ops",
    "forward_one_chunk",
    "backward_one_chunk",
    "backward_weight_one_chunk",
)


def pipeline_methods(stage: Any) -> dict[str, Any]:
    """What a schedule calls a pipeline stage by: no underscore, but documented nowhere."""
    missing = [name for name in _PIPELINE if not callable(getattr(stage, name, None))]
    if missing:
        raise ArgumentError(
            f"{type(stage).__name__} has no {', '.join(missing)}: expected a stage of "
            f"torch.distributed.pipelining as in torch 2.13, got one of torch {torch.__version__}"
        )
    return {name: getattr(stage, name) for name in _PIPELINE}
