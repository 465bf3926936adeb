"""Settings: GRADWIRE_* variables (listed in csrc/base/config.hpp), overridden by keywords of init()."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Union

from gradwire._native import Config
from gradwire.errors import ArgumentError

FIELDS = (
    "timeout_s",
    "transport",
    "sockets",
    "congestion",
    "heartbeat_s",
    "channel_bytes",
    "segment_bytes",
    "spin_us",
    "ifname",
    "deterministic",
    "gpu_peers",
)

Duration = Union[float, timedelta]  # a bare number means seconds


def seconds(duration: Duration) -> float:
    value = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    # Native code reads a negative number as "no limit of its own"; a caller's must not slip through as that.
    if not value >= 0:
        raise ArgumentError(
            f"timeout must be a number of seconds or a timedelta, not negative; got {duration!r}"
        )
    return value


def make_config(timeout: Duration | None = None, **settings: Any) -> Config:
    """The environment's settings and `settings` (names in FIELDS) on top. ArgumentError if one is wrong."""
    config = Config.from_env()
    if timeout is not None:
        settings["timeout_s"] = seconds(timeout)
    for name, value in settings.items():
        if name not in FIELDS:
            raise ArgumentError(
                f"gradwire.init() has no setting {name!r}; known: timeout, {', '.join(FIELDS)}"
            )
        try:
            setattr(config, name, value)
        except TypeError:
            expected = type(getattr(config, name)).__name__
            raise ArgumentError(f"setting {name} must be {expected}, got {value!r}") from None
    config.check()
    return config
