"""Durability of new files: fsync of their directory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_directory"]


def sync_directory(directory: Path) -> None:
    """Flush the entries of a directory to disk: until then, a new file can be lost in a power failure.

    Does nothing on Windows, which has no such call.
    """
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
