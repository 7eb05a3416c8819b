"""Writing a file whole or not at all."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_whole"]


def write_whole(file: Path, data: bytes | str) -> None:
    """Put a file in its place once all of it is written; what was there stays until then."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
