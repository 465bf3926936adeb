"""Tensor-parallel layers with Megatron-LM's names and semantics, over coded collectives.

Common arguments: group, the tensor-parallel process group of n ranks (None: the default group); codec, what
the activations and their gradients travel as, see `mappings`. Weights are drawn whole by init_method and
cut, so ranks with one random seed hold together the layer that one process would have drawn. `from_linear`
cuts an existing layer. Calls return (output, bias), as Megatron-LM's do: bias is the parameter if
skip_bias_add, else None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gradwire.errors import ArgumentError

from .error_probe import probe_of
from .groups import communicator
from .mappings import (
    CodecPair,
    Group,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    group_of,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    scatter_to_tensor_model_parallel_region,
    spelled,
)

InitMethod = Callable[[torch.Tensor], Any]


def divide(whole: int, parts: int, what: str) -> int:
    if whole % parts:
        raise ArgumentError(
            f"{what} is {whole}, which {parts} tensor-parallel ranks cannot share equally: pad it"
        )
    return whole // parts


def _as_in(linear: nn.Linear) -> dict[str, Any]:
    """What a layer is made with that is to hold the weight of `linear`."""
    return {
        "input_size": linear.in_features,
        "output_size": linear.out_features,
        "bias": linear.bias is not None,
        "init_method": lambda weight: weight.copy_(linear.weight),
        "dtype": linear.weight.dtype,
    }


class _ParallelLayer(nn.Module):
    """A weight of which every rank holds one slice."""

    def __init__(self, group: Group, codec: CodecPair) -> None:
        super().__init__()
        self.group = group_of(group)
        self.codec = spelled(codec)
        self.world_size, self.rank = self.group.size(), self.group.rank()
        if self.world_size > 1:
            communicator(self.group)  # here, where all ranks meet, not inside a compiled graph

    def _cut(self, whole: torch.Tensor, dim: int) -> nn.Parameter:
        width = divide(whole.shape[dim], self.world_size, f"dimension {dim} of the weight")
        mine = whole.detach().narrow(dim, self.rank * width, width).clone()
        parameter: Any = nn.Parameter(mine)
        # what Megatron-LM's optimizer and checkpoints look for
        parameter.tensor_model_parallel, parameter.partition_dim, parameter.partition_stride = True, dim, 1
        return parameter  # type: ignore[no-any-return]

    def _draw(self, shape: tuple[int, ...], init_method: InitMethod, dim: int, dtype: Any) -> nn.Parameter:
        whole = torch.empty(shape, dtype=dtype)
        with torch.no_grad():
            init_method(whole)
        return self._cut(whole, dim)


class ColumnParallelLinear(_ParallelLayer):
    """y = x A^T + b with the rows of A (columns of the output) cut over the ranks.

    x: [..., input_size], the same on every rank; with sequence_parallel [s / n, ..., input_size], a share of
    dimension 0. Returns ([..., output_size / n], bias); whole rows if gather_output. Backward sums the
    gradient of x over the ranks (or sums and scatters it), coded with the second of `codec`. Raises
    ArgumentError if n does not divide output_size.

    >>> up = ColumnParallelLinear(512, 2048, group=tp, codec="int8")  # doctest: +SKIP
    >>> hidden, _ = up(x)                                             # doctest: +SKIP
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        bias: bool = True,
        gather_output: bool = False,
        init_method: InitMethod = nn.init.xavier_normal_,
        skip_bias_add: bool = False,
        sequence_parallel: bool = False,
        group: Group = None,
        codec: CodecPair = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(group, codec)
        divide(output_size, self.world_size, "output_size")
        self.input_size, self.output_size = input_size, output_size
        self.gather_output, self.skip_bias_add = gather_output, skip_bias_add
        self.sequence_parallel = sequence_parallel
        self.weight = self._draw((output_size, input_size), init_method, 0, dtype)
        self.bias = self._cut(torch.zeros(output_size, dtype=dtype), 0) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Any) -> ColumnParallelLinear:
        """This rank's slice of a layer that is the same on every rank."""
        layer = cls(**_as_in(linear), **options)
        if linear.bias is not None:
            layer.bias = layer._cut(linear.bias, 0)
        return layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, nn.Parameter | None]:
        probe = probe_of(self)
        if self.sequence_parallel:
            x = gather_from_sequence_parallel_region(x, self.group, self.codec, probe)
        else:
            x = copy_to_tensor_model_parallel_region(x, self.group, self.codec, probe)
        y = F.linear(x, self.weight, None if self.skip_bias_add else self.bias)
        if self.gather_output:
            y = gather_from_tensor_model_parallel_region(y, self.group, self.codec, probe)
        return y, self.bias if self.skip_bias_add else None


class RowParallelLinear(_ParallelLayer):
    """y = x A^T + b with the columns of A (rows of the input) cut over the ranks.

    x: [..., input_size / n], each rank its share; whole rows unless input_is_parallel. Returns ([...,
    output_size], bias), summed over the ranks, coded with the first of `codec`; with sequence_parallel each
    rank gets its share of dimension 0. The bias is whole on every rank and is added after the sum. Raises
    ArgumentError if n does not divide input_size.

    >>> down = RowParallelLinear(2048, 512, group=tp, codec=("int8", None))  # doctest: +SKIP
    >>> y, _ = down(hidden)                                                  # doctest: +SKIP
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        bias: bool = True,
        input_is_parallel: bool = True,
        init_method: InitMethod = nn.init.xavier_normal_,
        skip_bias_add: bool = False,
        sequence_parallel: bool = False,
        group: Group = None,
        codec: CodecPair = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(group, codec)
        divide(input_size, self.world_size, "input_size")
        if sequence_parallel and not input_is_parallel:
            raise ArgumentError("RowParallelLinear: sequence_parallel needs input_is_parallel=True")
        self.input_size, self.output_size = input_size, output_size
        self.input_is_parallel, self.skip_bias_add = input_is_parallel, skip_bias_add
        self.sequence_parallel = sequence_parallel
        self.weight = self._draw((output_size, input_size), init_method, 1, dtype)
        self.bias = nn.Parameter(torch.zeros(output_size, dtype=dtype)) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Any) -> RowParallelLinear:
        """This rank's slice of a layer that is the same on every rank."""
        layer = cls(**_as_in(linear), **options)
        if layer.bias is not None:
            layer.bias.data.copy_(linear.bias.detach())
        return layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        probe = probe_of(self)
        if not self.input_is_parallel:
            x = scatter_to_tensor_model_parallel_region(x, self.group, self.codec, probe)
        y = F.linear(x, self.weight)
        bias: torch.Tensor | None = self.bias
        if self.sequence_parallel:
            y = reduce_scatter_to_sequence_parallel_region(y, self.group, self.codec, probe)
            # every rank adds the bias to its share of the sequence only: its gradients belong summed
            if bias is not None:
                bias = copy_to_tensor_model_parallel_region(bias, self.group)
        else:
            y = reduce_from_tensor_model_parallel_region(y, self.group, self.codec, probe)
        if self.skip_bias_add:
            return y, bias
        return (y if bias is None else y + bias), None


class VocabParallelEmbedding(_ParallelLayer):
    """An embedding whose rows (the vocabulary) are cut over the ranks.

    tokens: int64[...], the same on every rank. Returns [..., embedding_dim], summed over the ranks. With
    reduce_scatter_embeddings tokens are [b, s] and each rank gets [s / n, b, embedding_dim], as Megatron-LM's
    sequence parallelism wants it. Raises ArgumentError if n does not divide num_embeddings.

    Of each sum all terms but one are zero, so a codec costs one rounding of the embedding itself.

    >>> embed = VocabParallelEmbedding(50304, 512, group=tp)  # doctest: +SKIP
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        init_method: InitMethod = nn.init.xavier_normal_,
        reduce_scatter_embeddings: bool = False,
        group: Group = None,
        codec: CodecPair = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(group, codec)
        width = divide(num_embeddings, self.world_size, "num_embeddings")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.vocab_start_index, self.vocab_end_index = self.rank * width, (self.rank + 1) * width
        self.reduce_scatter_embeddings = reduce_scatter_embeddings
        self.weight = self._draw((num_embeddings, embedding_dim), init_method, 0, dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        foreign = (tokens < self.vocab_start_index) | (tokens >= self.vocab_end_index)
        local = (tokens - self.vocab_start_index).masked_fill(foreign, 0)
        y = F.embedding(local, self.weight).masked_fill(foreign.unsqueeze(-1), 0.0)
        probe = probe_of(self)
        if self.reduce_scatter_embeddings:
            return reduce_scatter_to_sequence_parallel_region(
                y.transpose(0, 1).contiguous(), self.group, self.codec, probe
            )
        return reduce_from_tensor_model_parallel_region(y, self.group, self.codec, probe)


def vocab_parallel_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, group: Group = None
) -> torch.Tensor:
    """Cross entropy, per target, of logits whose last dimension (the vocabulary) is cut over the ranks.

    logits: [..., vocabulary / n], behind a ColumnParallelLinear; target: int64[...]. Returns [...], the same
    on every rank. Three numbers a target travel, uncoded, instead of the logits.

    >>> loss = vocab_parallel_cross_entropy(logits, target, group=tp).mean()  # doctest: +SKIP
    """
    of = group_of(group)
    highest = logits.detach().amax(dim=-1)
    if of.size() > 1:
        highest = torch.ops.gradwire.all_reduce(highest, of.group_name, "", "max")
    shifted = logits.float() - highest.float().unsqueeze(-1)
    total = reduce_from_tensor_model_parallel_region(shifted.exp().sum(dim=-1), of)
    width = logits.shape[-1]
    local = target - of.rank() * width
    foreign = (local < 0) | (local >= width)
    picked = shifted.gather(-1, local.masked_fill(foreign, 0).unsqueeze(-1)).squeeze(-1)
    picked = reduce_from_tensor_model_parallel_region(picked.masked_fill(foreign, 0.0), of)
    return total.log() - picked


def sync_sequence_parallel_gradients(module: nn.Module, group: Group = None) -> None:
    """For what stands inside a sequence-parallel region, such as LayerNorm: each rank's gradients of its
    parameters come from a share of the sequence; from now on they are summed over the ranks.

    >>> sync_sequence_parallel_gradients(block.norm, group=tp)  # doctest: +SKIP
    """
    of = group_of(group)
    if of.size() > 1:
        communicator(of)
        for parameter in module.parameters():
            leaf: Any = parameter
            leaf.register_hook(lambda grad: torch.ops.gradwire.all_reduce(grad, of.group_name, ""))
