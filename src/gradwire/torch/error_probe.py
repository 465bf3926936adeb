"""How far off are the coded collectives of each tensor-parallel layer? Measured on real activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

# The attribute of a module under which its collectives look for a probe.
ATTRIBUTE = "_gradwire_probe"


@dataclass
class Row:
    """One collective of one layer. error: relative L2 error against the uncoded result, over all calls."""

    layer: str
    direction: str  # "forward" or "backward"
    collective: str
    codec: str
    calls: int = 0
    _lost: float = 0.0  # sums of squares
    _whole: float = 0.0

    @property
    def error(self) -> float:
        return (self._lost / self._whole) ** 0.5 if self._whole else 0.0


class Report:
    """What a probe has seen, a row a layer, direction and collective."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def add(self, row: Row, coded: torch.Tensor, exact: torch.Tensor) -> None:
        row = self._rows.setdefault((row.layer, row.direction, row.collective), row)
        exact = exact.double()
        row.calls += 1
        row._lost += float((coded.double() - exact).square().sum())
        row._whole += float(exact.square().sum())

    def __str__(self) -> str:
        lines = [f"{'layer':32} {'direction':9} {'collective':14} {'codec':20} {'calls':>6} {'error':>9}"]
        for r in self.rows:
            lines.append(
                f"{r.layer:32} {r.direction:9} {r.collective:14} {r.codec:20} {r.calls:6} {r.error:9.2e}"
            )
        return "\n".join(lines)


@dataclass
class Probe:
    """One layer's way into a report."""

    report: Report
    layer: str

    def record(
        self, direction: str, collective: str, codec: str, coded: torch.Tensor, exact: torch.Tensor
    ) -> None:
        self.report.add(Row(self.layer, direction, collective, codec), coded.detach(), exact.detach())


@contextmanager
def error_probe(model: nn.Module) -> Iterator[Report]:
    """Inside the block every coded collective of the model's tensor-parallel layers runs once more without
    its codec, and the difference is recorded, per layer and direction. Enter it on every rank, with the
    model as it is before torch.compile.

    >>> with gradwire.torch.error_probe(model) as report:  # doctest: +SKIP
    ...     model(x).sum().backward()
    >>> print(report)                                      # doctest: +SKIP
    """
    report = Report()
    modules = dict(model.named_modules())
    for name, module in modules.items():
        setattr(module, ATTRIBUTE, Probe(report, name))
    try:
        yield report
    finally:
        for module in modules.values():
            delattr(module, ATTRIBUTE)


def probe_of(module: nn.Module) -> Probe | None:
    return getattr(module, ATTRIBUTE, None)
