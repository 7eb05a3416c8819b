"""Writes files atomically, and formats rows as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["format_csv", "format_csv_row", "restore_cell", "write_atomically"]

_FORMULA: Final = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The first character of a cell that a spreadsheet evaluates, also in its full-width form."""
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def format_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Format rows as CSV with a header line, for a spreadsheet."""
    return "".join([_format_line(header), *map(format_csv_row, rows)])


def format_csv_row(row: Iterable[object]) -> str:
    """Format a row as a line of CSV, for a spreadsheet.

    An apostrophe before a text that a spreadsheet would evaluate as a formula makes it a text. Numbers are unchanged.
    """
    return _format_line(_neutralise(cell) for cell in row)


def _format_line(cells: Iterable[object]) -> str:
    text = io.StringIO(newline="")
    # The writer quotes a cell with a line break if the break is in `lineterminator`; spreadsheets accept CR and LF.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _neutralise(cell: object) -> object:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def restore_cell(cell: str) -> str:
    """Return the text of a cell that `format_csv_row` has written."""
    return cell[1:] if cell[:1] == "'" and _neutralise(cell[1:]) == cell else cell


def write_atomically(file: Path, data: bytes | str, *, is_private: bool = False) -> None:
    """Write a file next to its destination, then rename it, so that a failure leaves the previous content in place.

    Only the user can read a private file (mode 0600).
    """
    part = file.with_name(f".{file.name}.part")
    try:
        if is_private:
            part.unlink(missing_ok=True)
            part.touch(mode=0o600, exist_ok=False)
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
