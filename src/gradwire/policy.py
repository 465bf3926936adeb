"""Which parameter travels how: patterns on names, first match wins."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Union

from gradwire.codecs import Codec, as_codec
from gradwire.errors import ArgumentError
from gradwire.global_topk import GlobalTopK
from gradwire.powersgd import PowerSGD
from gradwire.stages import Stages

__all__ = ["Policy"]

# What one parameter does in one step.
Reducer = Union[PowerSGD, GlobalTopK]  # several collectives and state of their own


class Auto:
    """The codec that `Communicator.auto_codec` takes: none, or a lossy one where links are slow."""

    def __repr__(self) -> str:
        return "'auto'"


AUTO = Auto()
Choice = Union[Codec, Reducer, Auto, None]
_UNSET: Any = object()


class Policy:
    """Patterns on parameter names, each with a codec: the first that matches decides.

    rules: {pattern: codec}, in order. A pattern is fnmatch's, case matters: "*" matches any text, also dots.
    A codec is a name, "auto", a Codec, "powersgd(rank=2)", "global_topk(ratio=0.01)", an object of these, a
    `Stages`, or None (as it is). default: for names that no pattern matches; without one, such a name is an
    ArgumentError. Every rank must use an equal policy.

    >>> import gradwire
    >>> policy = gradwire.Policy({"*.bias": None, "embed.*": "int8", "*": "int4"})
    >>> policy.at("layers.0.bias"), policy.at("embed.weight"), policy.at("layers.0.weight")
    (None, int8(block=128), int4(block=32))
    """

    def __init__(self, rules: Mapping[str, Any], default: Any = _UNSET) -> None:
        # every codec is made here, so that a misspelt one is found before the first step
        self._rules = [(pattern, _stages(choice)) for pattern, choice in rules.items()]
        self._default = None if default is _UNSET else _stages(default)

    def at(self, name: str, step: int = 0) -> Choice:
        """The choice for a parameter at a step. Raises ArgumentError if nothing matches and there is no
        default."""
        return _choice(self._of(name).at(step))

    def ever(self, name: str) -> list[Choice]:
        """The choices for a parameter at all steps.

        >>> import gradwire
        >>> gradwire.Policy({"*": gradwire.warmup("bf16", 10)}).ever("head.weight")
        [None, bf16]
        """
        return [_choice(c) for c in self._of(name).choices]

    def _of(self, name: str) -> Stages:
        for pattern, stages in self._rules:
            if fnmatchcase(name, pattern):
                return stages
        if self._default is None:
            patterns = ", ".join(repr(p) for p, _ in self._rules)
            raise ArgumentError(
                f"no pattern of the policy matches parameter {name!r}; patterns: {patterns}. "
                'Add "*" as the last one, or give a default'
            )
        return self._default

    def stage(self, step: int) -> tuple[int, ...]:
        """Changes exactly when some choice may."""
        return tuple(stages.index(step) for stages in self._all())

    def choices(self) -> list[Choice]:
        """Everything that some parameter may do at some step."""
        return [_choice(c) for stages in self._all() for c in stages.choices]

    def unused(self, names: list[str]) -> list[str]:
        """Patterns that decide nothing for these names: a misspelling, most likely."""
        decides = {next((p for p, _ in self._rules if fnmatchcase(n, p)), None) for n in names}
        return [p for p, _ in self._rules if p not in decides]

    def _all(self) -> list[Stages]:
        return [s for _, s in self._rules] + ([self._default] if self._default is not None else [])

    def __repr__(self) -> str:
        rules = {p: s.choices[0] if len(s.choices) == 1 else s for p, s in self._rules}
        return f"Policy({rules!r})"


def _stages(choice: Any) -> Stages:
    if isinstance(choice, Stages):
        return Stages({first: _choice(c) for first, c in zip(choice.firsts, choice.choices)})
    return Stages({0: _choice(choice)})


def _choice(choice: Any) -> Choice:
    if isinstance(choice, (PowerSGD, GlobalTopK, Auto)):
        return choice
    if isinstance(choice, str):
        if choice == "auto":
            return AUTO
        reducer = PowerSGD.parse(choice) or GlobalTopK.parse(choice)
        if reducer is not None:
            return reducer
    return as_codec(choice)
