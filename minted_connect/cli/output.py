"""What commands print: tables for people, tab-separated lines for pipes, JSON for programs.

Results go to standard output, everything else to standard error. What a server sends is shown without control
characters: they could rewrite the screen.
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
from typing import Any, cast

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from minted_connect.cli.process import MissingErrors, escape, silence
from minted_connect.models import Deal, to_dict

__all__ = ["Output", "clean", "drawn", "plain"]


def clean(value: object) -> str:
    """Return a value as text for people, without what a terminal would obey."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        text = value.isoformat(sep=" ", timespec="seconds")
    elif isinstance(value, Decimal):
        text = format(value, "f")
    else:
        text = str(value)
    return text if text.isprintable() else "".join([one if one.isprintable() else "\ufffd" for one in text])


def plain(value: Any) -> Any:
    """Return a value as JSON has it: money as exact text, times as ISO 8601, models by their attributes."""
    kind: type = type(cast("object", value))
    if attrs.has(kind):
        told = {"kind": value.kind} if isinstance(value, Deal) else {}
        return plain({**told, **to_dict(value)})
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, enum.Enum) else value


class _Console(Console):
    """A console that reports a reader that has gone away, where that of rich ends the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Output:
    """Where a command prints; `as_json` is for all it prints."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console: Console = _Console(highlight=False, markup=False, emoji=False)
        self.errors: Console = _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def is_live(self) -> bool:
        """Whether somebody looks at a terminal that can redraw."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.as_json

    @property
    def is_coloured(self) -> bool:
        """Whether colours are wanted: on a terminal, unless `NO_COLOR` is set."""
        return self.console.is_terminal and not self.console.no_color

    @property
    def is_attended(self) -> bool:
        """Whether somebody is there to be asked."""
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def json(self, value: Any, *, indent: int | None = 2) -> None:
        """Print a JSON document; with `indent=None` on a line of its own, at once."""
        text = json.dumps(plain(value), indent=indent, ensure_ascii=False)
        if escape(text, sys.stdout) != text:
            text = json.dumps(plain(value), indent=indent)  # JSON has escapes of its own
        self._line(text)

    def text(self, line: str) -> None:
        """Print a line for customers."""
        self._line(line)

    def say(self, line: str) -> bool:
        """Print what is not a result, to standard error; return False if it cannot be written."""
        # A standard error that cannot be written must not change the exit code, which is all that is left then.
        try:
            self.errors.print(line)
        except (OSError, ValueError):
            silence(sys.stderr)
            return False
        return not isinstance(sys.stderr, MissingErrors)

    def records(self, rows: Iterable[Any], columns: Mapping[str, str], title: str = "") -> None:
        """Print models: as JSON whole, else the attributes that `columns` names by their headings."""
        things = list(rows)
        if self.as_json:
            self.json(things)
        else:
            cells = [[_at(thing, path) for path in columns.values()] for thing in things]
            self.table(list(columns), cells, title)

    def facts(self, model: Any, paths: Mapping[str, str], title: str = "") -> None:
        """Print one model: as JSON whole, else a line for each attribute that `paths` names and that has a value."""
        if self.as_json:
            self.json(model)
            return
        cells = [[name, _at(model, path)] for name, path in paths.items()]
        self.table(["", ""], [row for row in cells if row[1] not in {None, ""}], title)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """Print a table: drawn for a terminal, tab-separated for anything else."""
        if not self.console.is_terminal:
            lines = [[*head]] if any(head) else []
            for row in [*lines, *rows]:
                self._line("\t".join([clean(cell) for cell in row]))
            return
        self.console.print(drawn(head, rows, title))
        if not rows:
            self.console.print(Text("nothing", style="dim"))

    def _line(self, text: str) -> None:
        sys.stdout.write(escape(text, sys.stdout) + "\n")
        sys.stdout.flush()


def drawn(head: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> Table:
    """Return a table for a terminal; columns of nothing but numbers are aligned at the right."""
    table = Table(title=title or None, title_justify="left", show_header=any(head), header_style="bold")
    for number, name in enumerate(head):
        values = [row[number] for row in rows if row[number] is not None]
        right = bool(values) and all(isinstance(value, int | Decimal) for value in values)
        # Folded where there is no room, never cut: half an amount is another amount.
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row])
    return table


def _at(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model
