"""What error feedback remembers, in torch's distributed checkpoints (`save`, `async_save`, `load`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint

from gradwire.errors import ArgumentError

_dcp: Any = torch.distributed.checkpoint  # its type information hides the reader


class _Remembers(Protocol):
    def state_dict(self) -> dict[str, torch.Tensor]: ...
    def load_state_dict(self, state: Any) -> None: ...


class Stateful:
    """Puts a handle (of `attach`, a `GradientBucketer`, of `fsdp.apply`) into a distributed checkpoint.

    saved_in: the checkpoint to be loaded, a folder; needed where it may be of another number of ranks: the
    keys that must be read are then those that it has. key: the name that this object has in the state dict.
    ArgumentError if the checkpoint has nothing under it. `async_save` takes a copy before it returns.

    >>> state = {"model": model, "gradwire": gradwire.torch.Stateful(handle)}               # doctest: +SKIP
    >>> dcp.save(state, checkpoint_id=folder)                                               # doctest: +SKIP
    >>> state["gradwire"] = gradwire.torch.Stateful(handle, saved_in=folder)                # doctest: +SKIP
    >>> dcp.load(state, checkpoint_id=folder)                                               # doctest: +SKIP
    """

    def __init__(
        self, handle: _Remembers, saved_in: str | os.PathLike[str] | None = None, key: str = "gradwire"
    ) -> None:
        self._handle, self._saved_in, self._key = handle, saved_in, key

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What is kept; with `saved_in`, tensors to be filled with what is there."""
        if self._saved_in is None:
            return self._handle.state_dict()
        entries = _dcp.FileSystemReader(self._saved_in).read_metadata().state_dict_metadata
        prefix = f"{self._key}."
        found = {k[len(prefix) :]: v for k, v in entries.items() if k.startswith(prefix)}
        if not found:
            raise ArgumentError(
                f"checkpoint {os.fspath(self._saved_in)!r} has nothing under {self._key!r}: save it with "
                f"{{{self._key!r}: gradwire.torch.Stateful(handle)}}, or name the right key="
            )
        return {name: torch.zeros(v.size, dtype=v.properties.dtype) for name, v in found.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._handle.load_state_dict(dict(state))
