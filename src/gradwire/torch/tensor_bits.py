"""The bits of a tensor in fewer bytes: alone by the codec "lossless", or as what changed since another.

"lossless" takes fp32. Floats of 16 bits are laid out as the fp32 of the same sign, with their exponent in its
exponent and zeros below: 11.3 bits a value of bf16 and 14.3 of fp16 (normal values), NaN payloads and all. Of
words of 8 bytes the upper halves come first, then the lower ones. Changes: csrc/codec/changes.hpp.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

import gradwire
from gradwire import _native

Array = Any  # numpy's
# How a tensor was written. Part of the files: never reuse one.
AS_IT_IS, LOSSLESS, CHANGES = 0, 3, 4
_FP16_SHIFT = np.uint32(13)  # its five bits of exponent become the lower five of fp32's


def coded(t: torch.Tensor, before: torch.Tensor | None) -> tuple[Any, ...]:
    """(dtype, shape, form, uint8 tensor), the smallest form. t, before: contiguous, on the CPU; `before` is
    used if it has the same dtype and shape."""
    raw = bytes_of(t)
    forms = {AS_IT_IS: raw}
    if t.element_size() > 1 and raw.size:
        forms[LOSSLESS] = np.asarray(gradwire.encode(_as_fp32(raw, t.dtype), "lossless"))
    if before is not None and before.shape == t.shape and before.dtype == t.dtype:
        forms[CHANGES] = _native.pack_changes(raw, bytes_of(before), _word(t.dtype), _threads())
    form = min(forms, key=lambda f: forms[f].size)
    return t.dtype, tuple(t.shape), form, torch.from_numpy(np.array(forms[form]))


def decoded(code: tuple[Any, ...], before: torch.Tensor | None) -> torch.Tensor:
    """What was coded. FrameError if it needs another `before`, or its bytes are malformed."""
    dtype, shape, form, frame = code
    out = torch.empty(shape, dtype=dtype)
    raw = bytes_of(out)
    if form == AS_IT_IS and frame.numel() == raw.size:
        raw[:] = frame.numpy()
    elif form == LOSSLESS:
        raw[:] = _from_fp32(np.asarray(gradwire.decode(frame.numpy())), dtype)
    elif form == CHANGES and before is not None and before.dtype == dtype and before.shape == out.shape:
        _native.unpack_changes(frame.numpy(), bytes_of(before), _word(dtype), raw, _threads())
    else:
        raise gradwire.FrameError(f"a tensor of {dtype}{list(shape)} is in a form that cannot be read here")
    return out


def bytes_of(t: torch.Tensor) -> Array:
    """The memory of a contiguous tensor."""
    return t.detach().reshape(-1).view(torch.uint8).numpy()


def _word(dtype: torch.dtype) -> int:
    return min(dtype.itemsize, 8)


def _threads() -> int:
    return min(4, len(os.sched_getaffinity(0)))


def _as_fp32(raw: Array, dtype: torch.dtype) -> Array:
    if dtype.itemsize == 2:
        wide = raw.view(np.uint16).astype(np.uint32)
        if dtype == torch.float16:
            wide = (wide & 0x8000) << np.uint32(16) | (wide & 0x7FFF) << _FP16_SHIFT
        else:
            wide <<= np.uint32(16)
        return wide.view(np.float32)
    words = raw.view(np.uint32)
    if dtype.itemsize >= 8:
        words = np.ascontiguousarray(words.reshape(-1, 2).T[::-1]).reshape(-1)
    return words.view(np.float32)


def _from_fp32(values: Array, dtype: torch.dtype) -> Array:
    words = values.view(np.uint32)
    if dtype.itemsize == 2:
        if dtype == torch.float16:
            words = (words >> np.uint32(16)) & 0x8000 | (words >> _FP16_SHIFT) & 0x7FFF
        else:
            words = words >> np.uint32(16)
        return words.astype(np.uint16).view(np.uint8)
    if dtype.itemsize >= 8:
        words = np.ascontiguousarray(words.reshape(2, -1)[::-1].T).reshape(-1)
    return words.view(np.uint8)
