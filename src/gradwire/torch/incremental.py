"""Checkpoints that hold what changed since the checkpoint before, bit for bit.

A file is: magic, length and SHA-256 of the rest, the rest (torch.save of plain data; loaded with
weights_only). Every `full_every`-th file is whole; one between names the digest of the file before it. How
a tensor is written: tensor_bits.py.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradwire.errors import ArgumentError, FrameError

from .tensor_bits import coded, decoded

_MAGIC = b"GWINCR02"
State = dict[str, torch.Tensor]


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


class IncrementalWriter:
    """Writes a flat dict of CPU tensors again and again, one file a step, mostly differences.

    folder: one per rank; made if missing. full_every: so many files form a chain. A copy of the last state is
    kept in memory. A writer begins with a whole file. Files appear whole or not at all.

    >>> writer = gradwire.torch.IncrementalWriter(f"checkpoints/rank{rank}")  # doctest: +SKIP
    >>> writer.save(step, model.state_dict()).bytes                          # doctest: +SKIP
    >>> model.load_state_dict(gradwire.torch.load_incremental(folder, step))  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], full_every: int = 10) -> None:
        if full_every < 1:
            raise ArgumentError(f"full_every must be at least 1, got {full_every}")
        self._folder, self._full_every = Path(folder), full_every
        self._folder.mkdir(parents=True, exist_ok=True)
        self._before: State = {}
        self._step, self._digest, self._saved = -1, "", 0

    def save(self, step: int, state: State) -> Written:
        """ArgumentError unless `step` grows and every value is a CPU tensor."""
        if step <= self._step:
            raise ArgumentError(f"step {step} was given after step {self._step}: steps must grow")
        wrong = [k for k, v in state.items() if not isinstance(v, torch.Tensor) or v.device.type != "cpu"]
        if wrong:
            raise ArgumentError(f"expected CPU tensors, got something else at {', '.join(map(str, wrong))}")
        full = self._saved % self._full_every == 0
        now = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
        rest = io.BytesIO()
        before = {} if full else self._before
        content = {
            "step": step,
            "previous": -1 if full else self._step,
            "digest": "" if full else self._digest,
        }
        torch.save({**content, "tensors": {n: coded(t, before.get(n)) for n, t in now.items()}}, rest)
        body = rest.getvalue()
        digest = hashlib.sha256(body).digest()
        path = _path(self._folder, step)
        draft = path.with_suffix(".draft")
        with open(draft, "wb") as file:
            file.write(_MAGIC + len(body).to_bytes(8, "little") + digest + body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        self._before, self._step, self._digest = now, step, digest.hex()
        self._saved += 1
        return Written(path, full, sum(t.nbytes for t in now.values()), len(body) + 48)


def load_incremental(folder: str | os.PathLike[str], step: int | None = None) -> State:
    """The state of a step (None: the last one), bit for bit. BrokenCheckpoint names a file that is missing or
    damaged."""
    root = Path(folder)
    if step is None:
        steps = sorted(int(p.stem) for p in root.glob("*.gwc"))
        if not steps:
            raise BrokenCheckpoint(root, "no checkpoint is there")
        step = steps[-1]
    chain: list[Any] = []
    digest = ""
    while step >= 0:
        content, found = _read(_path(root, step))
        if digest and found != digest:
            raise BrokenCheckpoint(
                _path(root, step), "it is not the file that the next one was written after"
            )
        chain.append(content)
        step, digest = content["previous"], content["digest"]
    state: State = {}
    for content in reversed(chain):
        state = {n: decoded(code, state.get(n)) for n, code in content["tensors"].items()}
    return state


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:010d}.gwc"


def _read(path: Path) -> tuple[Any, str]:
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
