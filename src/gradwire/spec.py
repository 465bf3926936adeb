"""Choices written as text: `name(parameter=value, ...)`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gradwire.errors import ArgumentError


def arguments(spec: str, name: str, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any] | None:
    """The arguments of a text that calls `name`, each made by its kind; None if it names something else.
    ArgumentError for an unknown one or a value that its kind refuses."""
    match = re.fullmatch(rf"\s*{name}\s*(?:\(([^()]*)\))?\s*", spec)
    if match is None:
        return None
    given: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in (match[1] or "").split(","))):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in kinds:
            raise ArgumentError(f'{name}: no parameter "{key}"; known: {", ".join(kinds)}')
        try:
            given[key] = kinds[key](value)
        except ValueError:
            raise ArgumentError(f"{name}: {key} cannot be {value!r}") from None
    return given


def boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(text)
    return text == "True"
