"""Whether ranks can reduce GPU arrays through memory that they map, agreed by all; and when by one-shot."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from gradwire import _native
from gradwire.errors import FrameError

ON = "on"
_RECORD_BYTES = 1024
_VERSION = 1
_ANY_SIZE = 2**63 - 1


def agree(native: _native.Communicator) -> str:
    """Every rank calls it. Switches it on, on all ranks or on none. Returns "on", or "off: " and why."""
    reason, below = _misplaced(native), 0
    if not reason:
        found = _everyone(native, _ability(native))
        reason = _lacking(found)
        below = found[0]["one_shot_below"]  # rank 0's: the files of others may differ
    if reason:
        logging.getLogger("gradwire").warning("gpu_peers is off: %s", reason)
        return f"off: {reason}"
    native.use_gpu_peers(below)
    return ON


def _everyone(native: _native.Communicator, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's record. By messages: a collective would count, and random numbers go by the count."""
    text = json.dumps(mine).encode()
    records = np.zeros((native.size, _RECORD_BYTES), np.uint8)
    records[native.rank, : len(text)] = np.frombuffer(text, np.uint8)
    others = [rank for rank in range(native.size) if rank != native.rank]
    sent = [native.send(records[native.rank], rank, 0, False, -1.0) for rank in others]
    for rank in others:
        native.recv(records[rank], rank, 0, True, -1.0)
    for work in sent:
        assert work is not None
        work.wait()
    return [_read(rank, bytes(record)) for rank, record in enumerate(records)]


def _read(rank: int, record: bytes) -> dict[str, Any]:
    try:
        found = json.loads(record.rstrip(b"\0"))
        return {
            "kind": str(found["kind"]),
            "problem": str(found["problem"]),
            "one_shot_below": min(int(found["one_shot_below"]), _ANY_SIZE),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise FrameError(f"rank {rank} sent no record of its GPUs for gpu_peers: {error!r}") from error


def _ability(native: _native.Communicator) -> dict[str, Any]:
    kinds, problem = gpu_kinds(), ""
    if not kinds:
        problem = str(_native.gpu.status()["text"])
    elif len(kinds) > 1:
        problem = f"it sees GPUs of several kinds ({', '.join(kinds)})"
    below = one_shot_below(native.size) if kinds else 0
    # cut so that the record holds it however JSON spells it
    return {"kind": "; ".join(kinds)[:120], "problem": problem[:120], "one_shot_below": below}


def _misplaced(native: _native.Communicator) -> str:
    if native.size > _native.gpu.MOST_PEERS:
        return f"it takes up to {_native.gpu.MOST_PEERS} ranks, there are {native.size}"
    hosts = [host for host, _ in native.places()]
    if len(set(hosts)) > 1:
        return 'the ranks are on several hosts, or kept apart by transport="tcp"'
    return ""


def _lacking(found: list[dict[str, Any]]) -> str:
    for rank, record in enumerate(found):
        if record["problem"]:
            return f"rank {rank}: {record['problem']}"
        if record["kind"] != found[0]["kind"]:
            return f"GPUs differ: rank 0 has {found[0]['kind']}, rank {rank} has {record['kind']}"
    return ""


def gpu_kinds() -> list[str]:
    """Names of the GPUs that this process sees, each once; none if there is nothing to work with."""
    return sorted(set(_native.gpu.status()["gpus"]))


# -- one-shot or two-shot ------------------------------------------------------------------------------------
def one_shot_below(ranks: int) -> int:
    """Bytes of an array for which this many ranks take one-shot: as measured here, else the defaults."""
    try:
        found = json.loads(cache_path().read_text())
        measured = {int(n): below for n, below in found["one_shot_below"].items()}
        if found["version"] == _VERSION:
            larger = [n for n in sorted(measured) if n >= ranks]
            below = measured[larger[0]] if larger else 0
            return _ANY_SIZE if below is None else int(below)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nobody measured, or by another version
    return min(_native.gpu.one_shot_below(ranks), _ANY_SIZE)


def save(below: dict[int, int | None]) -> Path:
    """Keep what was measured on this machine's GPUs: by ranks, bytes; None: one-shot at every size.

    Communicators made from now on with gpu_peers go by it; between the numbers of ranks that were measured by
    the next larger one, above the largest by 0. Returns the file.
    """
    path = cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": _VERSION, "gpus": gpu_kinds(), "one_shot_below": below}, indent=1)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)
    return path


def cache_path() -> Path:
    """Under XDG_CACHE_HOME, named by the kinds of GPUs here."""
    name = hashlib.sha256(json.dumps([_VERSION, gpu_kinds()]).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gradwire" / f"gpu-peers-{name}.json"
