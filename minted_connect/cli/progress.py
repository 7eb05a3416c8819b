"""Progress bar on standard error."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

from minted_connect.cli.output import Output

__all__ = ["Progress"]


class Progress:
    """Progress bar on standard error; nothing if standard error is not a terminal."""

    def __init__(self, out: Output, label: str) -> None:
        self._errors = out.errors
        self._label = label
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._errors.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

            columns = (TextColumn(self._label), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, console=self._errors, transient=True)
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @contextmanager
    def hidden(self) -> Generator[None]:
        """Hide the bar inside the `with` block, so that lines can be printed above it."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def update(self, done: int, total: int | None) -> None:
        """Show the number of finished items, and of all items if it is known."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
