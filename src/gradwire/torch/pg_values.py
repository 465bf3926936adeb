"""How tensors of any dtype and layout are handed to the engine, which knows flat memory of seven dtypes.

Where bytes only move, any dtype travels as its bytes. For reductions there is a table: most go as they are,
others as a wider dtype, or as a view under another operator (bool: sum and max are "or", as NCCL has it)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from .pg_work import refused

Tensor = torch.Tensor
FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
ENGINE = frozenset({*FLOATS, torch.int32, torch.int64, torch.uint8})
# What a sum over them is computed in, exactly: modulo 2^n both ways, as the dtype itself would.
_WIDER = {
    torch.int8: torch.int32,
    torch.int16: torch.int32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.float8_e4m3fn: torch.float32,
    torch.float8_e5m2: torch.float32,
    torch.float8_e4m3fnuz: torch.float32,
    torch.float8_e5m2fnuz: torch.float32,
}
NAMES = {"SUM": "sum", "AVG": "avg", "PRODUCT": "prod", "MIN": "min", "MAX": "max"}
BITWISE = frozenset({"BAND", "BOR", "BXOR"})


def plain(x: Tensor) -> Tensor:
    """x, or a copy that is contiguous and has no lazy conjugation or sign."""
    return x.resolve_conj().resolve_neg().contiguous()


def movable(x: Tensor) -> Tensor:
    """A contiguous tensor in a dtype that the engine moves: itself, or its bytes."""
    return x if x.dtype in ENGINE else x.reshape(-1).view(torch.uint8)


class Place(NamedTuple):
    """Memory for the engine to fill, and what is then left to do."""

    memory: Tensor
    finish: Callable[[], object] | None


def place_for(x: Tensor, keep: bool = False) -> Place:
    """Where the engine writes so that x is filled. keep: it reads it first (broadcast's root)."""
    if x.is_contiguous() and not x.is_conj() and not x.is_neg():
        return Place(movable(x), None)
    copy = plain(x) if keep else torch.empty(x.shape, dtype=x.dtype)
    return Place(movable(copy), lambda: x.detach().copy_(copy))


class Reduction(NamedTuple):
    """op: the engine's, or one of BITWISE. load: contiguous input -> what travels (None: itself). store:
    result -> values of the output, if they are not in place already."""

    op: str
    load: Callable[[Tensor], Tensor] | None = None
    store: Callable[[Tensor], Tensor] | None = None

    def place(self, x: Tensor) -> Place:
        """For a reduction of x in place."""
        flat = x if x.is_contiguous() and not x.is_conj() and not x.is_neg() else plain(x)
        wire = flat if self.load is None else self.load(flat)
        if flat is x and self.store is None:
            return Place(wire, None)

        def finish() -> None:
            if self.store is None:
                x.detach().copy_(flat)
            else:
                x.detach().copy_(self.store(wire).view(x.shape))

        return Place(wire, finish)

    def input(self, x: Tensor) -> Tensor:
        flat = plain(x)
        return flat if self.load is None else self.load(flat)

    def output(self, x: Tensor) -> Place:
        """For a result that overwrites x."""
        flat = x if x.is_contiguous() else torch.empty(x.shape, dtype=x.dtype)
        if self.store is None:
            wire = flat if self.load is None else self.load(flat)
            return Place(wire, None if flat is x else lambda: x.detach().copy_(flat))
        assert self.load is not None
        wire, store = torch.empty_like(self.load(flat)), self.store
        return Place(wire, lambda: x.detach().copy_(store(wire).view(x.shape)))


def reduction(op: Any, dtype: torch.dtype, size: int) -> Reduction:
    """How ReduceOp `op` is done on `dtype` over `size` ranks; ArgumentError if it makes no sense."""
    kind = op.op.name
    if kind == "PREMUL_SUM":
        factor = op.factor
        if not (dtype.is_floating_point or dtype.is_complex):
            raise refused(f"PREMUL_SUM needs a float tensor, got {dtype}")
        inner = _reduction("SUM", dtype, size)
        load, store = inner.load, inner.store
        return Reduction(
            "sum",
            lambda x: x * factor if load is None else load(x * factor),
            store or ((lambda w: w) if not dtype.is_complex else torch.view_as_complex),
        )
    return _reduction(kind, dtype, size)


@cache
def _reduction(kind: str, dtype: torch.dtype, size: int) -> Reduction:
    if kind in BITWISE and (dtype.is_floating_point or dtype.is_complex):
        raise refused(f"ReduceOp.{kind} works on integers and bool, got {dtype}")
    if dtype.is_complex:
        if kind not in ("SUM", "AVG"):
            raise refused(f"ReduceOp.{kind} has no meaning for {dtype}: only SUM and AVG have")
        if dtype == torch.complex32:
            return Reduction(NAMES[kind], lambda x: x.view(torch.float16))
        return Reduction(NAMES[kind], torch.view_as_real)
    if dtype == torch.bool:
        as_bytes = {"SUM": "max", "MAX": "max", "BOR": "max", "PRODUCT": "min", "MIN": "min", "BAND": "min"}
        if kind == "AVG":
            raise refused("ReduceOp.AVG of bool has no meaning: convert it to a float dtype first")
        return Reduction(as_bytes.get(kind, kind), _bytes)
    if kind in BITWISE:
        return Reduction(kind, _bytes)
    name = NAMES[kind]
    if dtype in FLOATS:
        return Reduction(name)
    if kind == "AVG" and not dtype.is_floating_point and dtype != torch.uint64:
        return Reduction(
            "sum",
            lambda x: x.to(torch.int64, copy=True),
            lambda w: torch.div(w, size, rounding_mode="trunc"),
        )
    if dtype in ENGINE:
        return Reduction(name)
    if dtype == torch.uint64 and kind in ("SUM", "PRODUCT"):
        return Reduction(name, lambda x: x.view(torch.int64))
    if dtype in _WIDER:
        wide = _WIDER[dtype]
        return Reduction(name, lambda x: x.to(wide), lambda w: w)
    raise refused(f"ReduceOp.{kind} of {dtype} is not supported")


def _bytes(x: Tensor) -> Tensor:
    return x.reshape(-1).view(torch.uint8)


def overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two contiguous tensors share memory."""
    a, b = x.data_ptr(), y.data_ptr()
    return a < b + y.numel() * y.element_size() and b < a + x.numel() * x.element_size()
