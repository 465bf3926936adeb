"""Styles for torch's `parallelize_module` whose activations and gradients travel coded.

    parallelize_module(block, mesh["tp"], {
        "up": CompressedColwiseParallel(codec="int8"),
        "down": CompressedRowwiseParallel(codec="int8"),
    })

They are torch's own styles but for the one collective each brings: what it sends, there and back, goes
through a codec. Overridden are the private methods that torch's float8 styles also override (torch 2.13).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from gradwire.errors import ArgumentError

from .error_probe import probe_of
from .groups import communicator
from .mappings import (
    CodecPair,
    Spelled,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    spelled,
)


class CompressedColwiseParallel(ColwiseParallel):
    """`ColwiseParallel` whose input gradients are summed coded.

    codec: see `mappings`. sequence_parallel: the input is a share of dimension 0, the sequence; it is
    gathered, its gradient summed and scattered, each coded.

    >>> CompressedColwiseParallel(codec=("bf16", "int8"), sequence_parallel=True)  # doctest: +SKIP
    """

    def __init__(self, *, codec: CodecPair = "int8", sequence_parallel: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if self.input_layouts[0] != Replicate():
            raise ArgumentError(
                f"CompressedColwiseParallel takes replicated inputs, got {self.input_layouts[0]}; for a "
                "share of the sequence pass sequence_parallel=True"
            )
        self.codec, self.sequence_parallel = spelled(codec), sequence_parallel

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _check_linear(self, module)
        communicator(device_mesh.get_group())  # here, where all ranks meet
        self._prepare_input_fn = partial(  # type: ignore[method-assign]
            _coded_input, self.codec, self.sequence_parallel
        )
        return super()._apply(module, device_mesh)


def _check_linear(style: object, module: nn.Module) -> None:
    if not isinstance(module, nn.Linear):
        raise ArgumentError(
            f"{type(style).__name__} is for nn.Linear, got {type(module).__name__}; for embeddings take "
            "torch's own style or gradwire.torch.VocabParallelEmbedding"
        )


def _coded_input(  # noqa: PLR0917 - torch's signature
    codec: Spelled,
    sequence_parallel: bool,
    input_layouts: Any,
    desired_input_layouts: Any,
    mod: nn.Module,
    inputs: Any,
    device_mesh: DeviceMesh,
) -> Any:
    x = inputs[0]
    if isinstance(x, DTensor):
        x = x.to_local()
    group, probe = device_mesh.get_group(), probe_of(mod)
    take = gather_from_sequence_parallel_region if sequence_parallel else copy_to_tensor_model_parallel_region
    x = take(x, group, codec, probe)
    # Each rank's gradient of x is a partial sum, and `take` sums it: left alone, DTensor would sum it again.
    return DTensor.from_local(x, device_mesh, (Replicate(),), run_check=False, grad_placements=(Partial(),))


class CompressedRowwiseParallel(RowwiseParallel):
    """`RowwiseParallel` whose outputs are summed coded.

    codec: see `mappings`. sequence_parallel: each rank gets its share of dimension 0 of the sum.

    >>> CompressedRowwiseParallel(codec="int4")  # doctest: +SKIP
    """

    def __init__(self, *, codec: CodecPair = "int8", sequence_parallel: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if self.output_layouts[0] != Replicate():
            raise ArgumentError(
                f"CompressedRowwiseParallel gives replicated outputs, got {self.output_layouts[0]}; for a "
                "share of the sequence pass sequence_parallel=True"
            )
        self.codec, self.sequence_parallel = spelled(codec), sequence_parallel

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _check_linear(self, module)
        communicator(device_mesh.get_group())
        self._prepare_output_fn = partial(  # type: ignore[method-assign]
            _coded_output, self.codec, self.sequence_parallel
        )
        return super()._apply(module, device_mesh)


def _coded_output(  # noqa: PLR0917 - torch's signature
    codec: Spelled,
    sequence_parallel: bool,
    output_layouts: Any,
    use_local_output: bool,
    mod: nn.Module,
    outputs: DTensor,
    device_mesh: DeviceMesh,
) -> torch.Tensor:
    group, probe = device_mesh.get_group(), probe_of(mod)
    # A rank's gradient of its term is the gradient of the sum.
    term = outputs.to_local(grad_placements=(Replicate(),))
    give = (
        reduce_scatter_to_sequence_parallel_region
        if sequence_parallel
        else reduce_from_tensor_model_parallel_region
    )
    y = give(term, group, codec, probe)
    if use_local_output:
        return y
    placement = Shard(0) if sequence_parallel else Replicate()
    return DTensor.from_local(y, device_mesh, (placement,), run_check=False)
