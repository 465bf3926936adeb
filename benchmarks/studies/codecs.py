"""Which codecs the studies try: all of the registry with their defaults, and the settings named here.

A codec that is added to gradwire appears in both studies by itself; a line here adds a setting of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradwire

# Settings beside the defaults, for the rate-distortion curve.
SETTINGS = (
    "int8(block=32)",
    "int8(block=64)",
    "int4(block=32)",
    "int4(block=64)",
    "int4(block=128)",
    *(f"topk(ratio={r}, values={v})" for r in (0.01, 0.03, 0.1, 0.3) for v in ("fp32", "bf16", "int8")),
)
SPARSE = ("topk", "randk", "threshold")


def listed() -> tuple[list[gradwire.Codec], list[str]]:
    """(codecs without repetition, settings that this build does not take)."""
    found: dict[str, gradwire.Codec] = {}
    refused = []
    for spec in (*gradwire.codecs(), *SETTINGS):
        try:
            codec = gradwire.codec(spec)
        except gradwire.ArgumentError:
            refused.append(spec)
        else:
            found.setdefault(repr(codec), codec)
    return list(found.values()), refused


def is_sparse(name: str) -> bool:
    return name.startswith(SPARSE)


@dataclass(frozen=True)
class Method:
    """One way to average gradients, for the training study.

    codec: as `gradwire.codec` takes it; None: plain values. error_feedback: keep what encoding lost for the
    next step. warmup: share of the steps that go dense first."""

    name: str
    codec: str | None = None
    error_feedback: bool = True
    warmup: float = 0.0


_CHOSEN = (
    Method("dense"),
    Method("bf16", "bf16"),
    Method("fp16", "fp16"),
    Method("int8", "int8"),
    Method("int8 no EF", "int8", error_feedback=False),
    Method("int4", "int4"),
    Method("int4 no EF", "int4", error_feedback=False),
    Method("top-k 10 %", "topk(ratio=0.1)"),
    Method("top-k 10 % no EF", "topk(ratio=0.1)", error_feedback=False),
    Method("top-k 1 %", "topk(ratio=0.01)"),
    Method("top-k 1 % no EF", "topk(ratio=0.01)", error_feedback=False),
    Method("top-k 1 % warm-up", "topk(ratio=0.01)", warmup=0.25),
)


def methods() -> list[Method]:
    """The chosen ones that this build can do, then every codec of the registry that none of them uses."""
    able = []
    for method in _CHOSEN:
        try:
            if method.codec is not None:
                gradwire.codec(method.codec)
        except gradwire.ArgumentError:
            continue
        able.append(method)
    used = {gradwire.codec(m.codec).name for m in able if m.codec is not None} | {"identity"}
    return able + [Method(name, name) for name in gradwire.codecs() if name not in used]
