"""Reads the clock by which the claims of an SQLite journal expire: the time since the machine was started."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["boot_clock_params"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def boot_clock_params() -> Mapping[str, Any]:
    """Return the parameters `elapsed` and `boot_id` of a statement; both are None on systems without a boot id.

    `elapsed` are the seconds since the start that `boot_id` identifies. They include the time the machine is suspended,
    are the same for all its processes, and do not change when the time of day is set.
    """
    try:
        boot_id = _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        boot_id = ""
    if not boot_id or _CLOCK is None:
        return {"elapsed": None, "boot_id": None}
    return {"elapsed": time.clock_gettime(_CLOCK), "boot_id": boot_id}
