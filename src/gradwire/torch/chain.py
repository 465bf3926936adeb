"""Files that hold tensors as what changed since the file before, bit for bit.

A file is: magic, length and SHA-256 of the rest, the rest (torch.save of plain data; loaded with
weights_only). The first of a chain is whole; each other one names the file it was written after, by its path
from its own folder and its digest. How a tensor is written: tensor_bits.py.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradwire.errors import ArgumentError, FrameError

from .tensor_bits import coded, decoded

_MAGIC = b"GWINCR02"
Tensors = dict[str, torch.Tensor]


class BrokenCheckpoint(FrameError):
    """A file of a chain is missing, damaged or of another chain. path: which."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"checkpoint file {path}: {why}; load an earlier step, or a chain that is whole")
        self.path = path


@dataclass(frozen=True)
class Written:
    """path: the file. raw_bytes: of the tensors. bytes: of the file."""

    path: Path
    full: bool
    raw_bytes: int
    bytes: int


class Chain:
    """Writes the files of chains of `full_every`, and keeps a copy of the last one's tensors in memory."""

    def __init__(self, full_every: int) -> None:
        if full_every < 1:
            raise ArgumentError(f"full_every must be at least 1, got {full_every}")
        self._full_every = full_every
        self._before: Tensors = {}
        self._path, self._digest, self._saved = Path(), "", 0

    def write(self, path: Path, tensors: Mapping[str, torch.Tensor], rest: Any = None) -> Written:
        """tensors: contiguous or not, on any device. rest: plain data. The file appears whole or not at all;
        if it does not, the next one is written after the same one as this."""
        # A file that is written anew cannot be the one it was written after.
        full = self._saved % self._full_every == 0 or path.absolute() == self._path
        now = {name: _copy(t) for name, t in tensors.items()}
        before = {} if full else self._before
        content = {
            "previous": "" if full else os.path.relpath(self._path, path.absolute().parent),
            "digest": "" if full else self._digest,
            "rest": rest,
            "tensors": {name: coded(t, before.get(name)) for name, t in now.items()},
        }
        body = io.BytesIO()
        torch.save(content, body)
        blob = body.getvalue()
        digest = hashlib.sha256(blob).digest()
        draft = path.with_suffix(".draft")
        with open(draft, "wb") as file:
            file.write(_MAGIC + len(blob).to_bytes(8, "little") + digest + blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        self._before, self._path, self._digest = now, path.absolute(), digest.hex()
        self._saved = 1 if full else self._saved + 1
        return Written(path, full, sum(t.nbytes for t in now.values()), len(blob) + 48)


def read(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> tuple[Tensors, Any]:
    """Tensors with a wanted name, and the rest. BrokenCheckpoint names a file that is missing or damaged."""
    contents: list[Any] = []
    digest = ""
    while True:
        content, found = _read_one(path)
        if digest and found != digest:
            raise BrokenCheckpoint(path, "it is not the file that the next one was written after")
        contents.append(content)
        if not content["previous"]:
            break
        path, digest = path.parent / content["previous"], content["digest"]
    tensors: Tensors = {}
    for content in reversed(contents):
        codes = {name: code for name, code in content["tensors"].items() if wanted(name)}
        tensors = {name: decoded(code, tensors.get(name)) for name, code in codes.items()}
    return tensors, contents[0]["rest"]


def _copy(t: torch.Tensor) -> torch.Tensor:
    return torch.empty(t.shape, dtype=t.dtype).copy_(t.detach())


def _read_one(path: Path) -> tuple[Any, str]:
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise BrokenCheckpoint(path, f"cannot be read ({error.strerror})") from error
    body, digest = blob[48:], blob[16:48]
    if blob[:8] != _MAGIC or int.from_bytes(blob[8:16], "little") != len(body):
        raise BrokenCheckpoint(path, "it is not such a file, or was cut off")
    if hashlib.sha256(body).digest() != digest:
        raise BrokenCheckpoint(path, "its checksum is wrong")
    return torch.load(io.BytesIO(body), weights_only=True), digest.hex()
