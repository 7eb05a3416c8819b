"""Output of commands: tables on a terminal, tab-separated lines elsewhere, JSON with `--json`.

Results go to standard output, everything else to standard error. Control characters in text from the server are
replaced, because a terminal would execute them.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, cast

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from minted_connect.cli.process import NullStderr, discard_output, escape_unencodable
from minted_connect.models import Deal
from minted_connect.serialization import to_dict

__all__ = ["Output", "build_table", "format_cell", "to_jsonable"]


_MAX_WORD: Final = 16
"""Number of characters from which a word may be broken."""


def format_cell(value: object) -> str:
    """Format a value as text, with U+FFFD in place of each character that is not printable."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        text = value.isoformat(sep=" ", timespec="seconds")
    elif isinstance(value, Decimal):
        text = format(value, "f")
    else:
        text = str(value)
    return text if text.isprintable() else "".join([char if char.isprintable() else "\ufffd" for char in text])


def to_jsonable(value: Any) -> Any:
    """Convert a value for `json.dumps`: Decimal to str, times to ISO 8601, models to objects of their attributes."""
    class_: type = type(cast("object", value))
    if attrs.has(class_):
        kind = {"kind": value.kind} if isinstance(value, Deal) else {}
        return to_jsonable({**kind, **to_dict(value)})
    if isinstance(value, Mapping):
        return {name: to_jsonable(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, enum.Enum) else value


class _Console(Console):
    """A console that raises BrokenPipeError; that of rich ends the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Output:
    """Prints the results and messages of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console: Console = _Console(highlight=False, markup=False, emoji=False)
        self.errors: Console = _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def is_live(self) -> bool:
        """Whether standard output is a terminal that can be redrawn."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.as_json

    @property
    def has_colour(self) -> bool:
        """Whether to print colours: on a terminal, unless `NO_COLOR` is set."""
        return self.console.is_terminal and not self.console.no_color

    @property
    def can_prompt(self) -> bool:
        """Whether a question can be asked: standard input and standard error are terminals."""
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def print_json(self, value: Any, *, indent: int | None = 2) -> None:
        """Print a JSON document, on one line with `indent=None`."""
        text = json.dumps(to_jsonable(value), indent=indent, ensure_ascii=False)
        if escape_unencodable(text, sys.stdout) != text:
            text = json.dumps(to_jsonable(value), indent=indent)  # with the escapes of JSON
        self.print_line(text)

    def print_line(self, line: str) -> None:
        """Print a line on standard output, and flush it."""
        sys.stdout.write(escape_unencodable(line, sys.stdout) + "\n")
        sys.stdout.flush()

    def print_message(self, line: str) -> bool:
        """Print a line on standard error; return False if it cannot be written."""
        # The exit code must not depend on standard error: if that fails, the exit code is all the user gets.
        try:
            self.errors.print(line)
        except (OSError, ValueError):
            discard_output(sys.stderr)
            return False
        return not isinstance(sys.stderr, NullStderr)

    def print_records(self, rows: Iterable[Any], columns: Mapping[str, str], title: str = "") -> None:
        """Print models: as JSON, or as a table of attributes. `columns` maps headings to attribute paths."""
        models = list(rows)
        if self.as_json:
            self.print_json(models)
        else:
            cells = [[_get_path(model, path) for path in columns.values()] for model in models]
            self.print_table(list(columns), cells, title)

    def print_fields(self, model: Any, paths: Mapping[str, str], title: str = "") -> None:
        """Print one model: as JSON, or a line for each attribute with a value. `paths` maps labels to attributes."""
        if self.as_json:
            self.print_json(model)
            return
        cells = [[label, _get_path(model, path)] for label, path in paths.items()]
        self.print_table(["", ""], [row for row in cells if row[1] not in {None, ""}], title)

    def print_table(self, header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """Print a table: with borders on a terminal, as tab-separated lines elsewhere."""
        if not self.console.is_terminal:
            lines = [[*header]] if any(header) else []
            for row in [*lines, *rows]:
                self.print_line("\t".join([format_cell(cell) for cell in row]))
            return
        if any(header) and rows and _min_width(header, rows) > self.console.width:
            self.console.print(_build_lists(header, rows, title))
            return
        self.console.print(build_table(header, rows, title, keeps_words=True))
        if not rows:
            self.console.print(Text("no rows", style="dim"))


def _min_width(header: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Return the width of a table in which no amount, date or name of up to 16 characters is broken."""
    return 1 + sum(3 + _word_width(name, [row[number] for row in rows]) for number, name in enumerate(header))


def _word_width(name: str, values: Iterable[object]) -> int:
    width = 0
    for value in [name, *values]:
        longest = max(len(word) for word in format_cell(value).split(" "))
        # Amounts are never broken.
        width = max(width, longest if isinstance(value, int | Decimal) else min(longest, _MAX_WORD))
    return width


def _build_lists(header: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> Table:
    """Build a table for a narrow terminal, with a line for each value and a section for each row."""
    table = Table(title=title or None, title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for row in rows:
        for name, cell in zip(header, row, strict=True):
            if cell not in {None, ""}:
                table.add_row(name, cell if isinstance(cell, Text) else Text(format_cell(cell)))
        table.add_section()
    return table


def build_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", *, keeps_words: bool = False
) -> Table:
    """Build a table for a terminal. Columns that contain only numbers are right-aligned.

    Args:
        header: Names of the columns; none is shown if all are empty.
        rows: The cells.
        title: Text above the table.
        keeps_words: Break no word of up to 16 characters. Only for a terminal of at least `_min_width`: on a narrower
            one, amounts would be cut off.
    """
    table = Table(title=title or None, title_justify="left", show_header=any(header), header_style="bold")
    for number, name in enumerate(header):
        values = [row[number] for row in rows if row[number] is not None]
        right = bool(values) and all(isinstance(value, int | Decimal) for value in values)
        # Fold, never truncate: a truncated amount reads as another amount.
        table.add_column(
            name,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
            min_width=_word_width(name, values) if keeps_words and any(header) else None,
        )
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(format_cell(cell)) for cell in row])
    return table


def _get_path(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model
