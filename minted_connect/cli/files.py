"""Writing a file whole or not at all, and rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

__all__ = ["csv_of", "write_whole"]


def csv_of(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV, below their heading."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def write_whole(file: Path, data: bytes | str) -> None:
    """Put a file in its place once all of it is written; what was there stays until then."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
