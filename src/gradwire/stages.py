"""What goes when: a codec that changes with the training step (warm-up, ramps)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from gradwire.errors import ArgumentError

__all__ = ["Stages", "ramp", "warmup"]


class Stages:
    """A choice of codec per training step: {first step: codec}, where None is dense.

    steps: the first stage must begin at step 0. A codec may be whatever `codec=` takes. Every rank must use
    equal stages: all switch at the same step, because the step is counted the same way on all of them. Raises
    ArgumentError if no stage begins at 0 or a step is negative.

    >>> import gradwire
    >>> stages = gradwire.Stages({0: None, 100: "int8", 500: "int4"})
    >>> stages.at(99), stages.at(100), stages.at(1000)
    (None, 'int8', 'int4')
    """

    def __init__(self, steps: Mapping[int, Any]) -> None:
        self.firsts: list[int] = sorted(steps)
        if not self.firsts or self.firsts[0] != 0:
            raise ArgumentError(f"stages: the first stage must begin at step 0, got steps {self.firsts}")
        self.choices: list[Any] = [steps[first] for first in self.firsts]

    def index(self, step: int) -> int:
        """Which stage a step belongs to."""
        return bisect_right(self.firsts, max(0, step)) - 1

    def at(self, step: int) -> Any:
        """The choice at a step."""
        return self.choices[self.index(step)]

    def __repr__(self) -> str:
        return f"Stages({dict(zip(self.firsts, self.choices))!r})"


def warmup(codec: Any, steps: int, before: Any = None) -> Stages:
    """`before` (None: dense) for the first `steps` steps, then `codec`.

    >>> import gradwire
    >>> gradwire.warmup("topk(ratio=0.01)", steps=150)
    Stages({0: None, 150: 'topk(ratio=0.01)'})
    """
    if steps < 0:
        raise ArgumentError(f"warmup: steps must not be negative, got {steps}")
    return Stages({0: before, steps: codec} if steps else {0: codec})


def ramp(
    spec: str,
    start: float,
    stop: float,
    steps: int,
    *,
    curve: str = "exponential",
    stages: int = 5,
    dense_steps: int = 0,
) -> Stages:
    """One parameter of a codec goes from `start` to `stop` in `stages` stages over `steps` steps.

    spec: the codec with `{}` in place of the parameter: "topk(ratio={})", "int{}". If start and stop are both
    int, the values are whole numbers. curve: "exponential" (equal factors, as in Deep Gradient Compression,
    Lin et al. 2018, whose 25 %, 6.25 %, 1.56 %, 0.4 %, 0.1 % are `ramp("topk(ratio={})", 0.25, 0.001, ...)`)
    or "linear" (equal differences). dense_steps: steps without a codec before the ramp begins. A stage costs
    one plan a bucket, which is made when the stage begins; hence a few stages and not a value a step. Raises
    ArgumentError for another curve, a spec without `{}`, values that are not positive, or fewer than 2
    stages.

    >>> import gradwire
    >>> gradwire.ramp("int{}", 8, 4, steps=300, curve="linear", stages=3, dense_steps=50)
    Stages({0: None, 50: 'int8', 150: 'int6', 250: 'int4'})
    """
    if curve not in ("exponential", "linear"):
        raise ArgumentError(f'ramp: curve must be "exponential" or "linear", got {curve!r}')
    if spec.count("{}") != 1:
        raise ArgumentError(f'ramp: the spec needs one {{}}, as in "topk(ratio={{}})", got {spec!r}')
    if not (start > 0 and stop > 0):
        raise ArgumentError(f"ramp: start and stop must be above 0, got {start} and {stop}")
    if stages < 2 or steps < stages or dense_steps < 0:
        raise ArgumentError(f"ramp: needs 2 or more stages of at least a step, got {stages} in {steps} steps")
    whole = isinstance(start, int) and isinstance(stop, int)
    planned: dict[int, Any] = {0: None} if dense_steps else {}
    for i in range(stages):
        share = i / (stages - 1)
        value = start * (stop / start) ** share if curve == "exponential" else start + (stop - start) * share
        text = spec.format(round(value) if whole else f"{value:.6g}")
        first = dense_steps + i * steps // stages
        if not planned or planned[max(planned)] != text:
            planned[first] = text
    return Stages(planned)
