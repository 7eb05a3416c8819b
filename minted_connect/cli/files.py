"""Writes files atomically, and formats rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

__all__ = ["format_csv", "write_atomically"]


def format_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Format rows as CSV with a header line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_atomically(file: Path, data: bytes | str) -> None:
    """Write a file next to its destination, then rename it, so that a failure leaves the previous content in place."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
