"""Every private name of torch that this package leans on, in one place. Tried with torch 2.13.

A torch that lacks one of them raises an ArgumentError that says so, at the call that needs it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

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
# Public, but with the older name deprecated in 2.13 and the newer one missing before.
all_gather_single: Any = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
reduce_scatter_single: Any = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
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


def takes_host_memory(group: Any) -> bool:
    """Whether some backend of the group works on CPU tensors, as far as it says."""
    devices = getattr(group, "_device_types", None)
    return not devices or any(torch.device(d).type == "cpu" for d in devices)


def largest(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The largest magnitude of each, as tensors of one element; in few kernels."""
    norms = getattr(torch, "_foreach_norm", None)
    if norms is None:
        return [t.abs().amax() for t in tensors]
    found: list[torch.Tensor] = norms(tensors, float("inf"))
    return found


def store_of(group: dist.ProcessGroup, prefix: str) -> Any:
    """The group's own store, under a prefix."""
    return prefixed(_need("_get_process_group_store")(group), prefix)


def has_own_bucket_sizes(ddp: Any) -> bool:
    """Whether whoever made `ddp` chose the sizes of its buckets, or it is not known how to change them."""
    plain = not (getattr(ddp, "_use_python_reducer", False) or getattr(ddp, "_delay_all_reduce_params", ()))
    known = plain and hasattr(ddp, "_bucket_config") and hasattr(ddp, "_ddp_init_helper")
    begun = getattr(ddp, "_has_rebuilt_buckets", True) or getattr(ddp, "_comm_hooks", ())
    return not known or bool(begun) or not ddp.bucket_bytes_cap_default


def regroup(ddp: Any, cap_mb: float, first_mb: float) -> None:
    """Other sizes of buckets than `ddp` was made with: its reducer is made anew, as torch does where it
    unpickles one. Before the first step, and before a hook is registered."""
    cap, first = int(cap_mb * 2**20), int(first_mb * 2**20)
    try:
        ddp._bucket_config = dataclasses.replace(
            ddp._bucket_config, bucket_bytes_cap=cap, per_bucket_bytes_caps=(), first_bucket_bytes_cap=first
        )
        ddp.bucket_bytes_cap, ddp.bucket_bytes_cap_list = cap, []
        ddp.bucket_bytes_cap_default = first < cap
        parameters, sparse = ddp._build_params_for_reducer()
        names = ddp._build_debug_param_to_name_mapping(parameters)
        ddp._ddp_init_helper(parameters, sparse, names, ddp.static_graph)
        if ddp.static_graph:
            ddp.reducer._set_static_graph()
            ddp.logger._set_static_graph()
    except (AttributeError, TypeError) as error:
        raise ArgumentError(
            f"bucket_cap_mb= knows DistributedDataParallel of torch 2.13, torch {torch.__version__} differs "
            f"({error}): give the size to DistributedDataParallel itself, and bucket_cap_mb=None here"
        ) from error


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


class Shard(NamedTuple):
    """One parameter of a fully_shard module. size: this rank's before sharding; shard: of one rank's padded
    part; dim: the dimension that is cut."""

    module: torch.nn.Module
    name: str
    size: torch.Size
    shard: torch.Size
    dim: int
    trainable: bool


class ParamGroup:
    """What `fully_shard` keeps per module: parameters that travel together, and over which groups."""

    def __init__(self, group: Any) -> None:
        self._group = group
        try:
            mesh = group.mesh_info
            self.shard_group: dist.ProcessGroup | None = getattr(mesh, "shard_process_group", None)
            self.replicate_group: dist.ProcessGroup | None = getattr(mesh, "replicate_process_group", None)
            self.shards = [self._shard(p) for p in group.fsdp_params]
        except AttributeError as error:
            raise ArgumentError(
                f"this gradwire knows fully_shard of torch 2.13, torch {torch.__version__} differs: {error}"
            ) from error

    @staticmethod
    def _shard(p: Any) -> Shard:
        owner = p._module_info
        return Shard(
            owner.module,
            owner.param_name,
            p._orig_size,
            p.padded_sharded_param_size,
            p.fsdp_placement.dim,
            p.sharded_param.requires_grad,
        )

    def replace_replicate_group(self, group: dist.ProcessGroup) -> None:
        """The process group whose `allreduce` sums over the replicas. The mesh info is this module's own."""
        self._group.mesh_info.replicate_process_group = group


def param_groups(module: Any) -> list[Any]:
    """torch's own objects: several modules may share one."""
    try:
        return list(module._get_fsdp_state()._fsdp_param_groups)
    except AttributeError as error:
        raise ArgumentError(
            f"this gradwire knows fully_shard of torch 2.13, torch {torch.__version__} differs: {error}"
        ) from error
