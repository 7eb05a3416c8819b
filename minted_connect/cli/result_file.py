"""Writes the result file of a plan: a line of CSV for each reference, on disk as soon as its outcome is known."""

from __future__ import annotations

import enum
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import attrs

from minted_connect.cli.files import format_csv, format_csv_row
from minted_connect.errors import ConfigurationError

__all__ = ["Outcome", "ResultFile", "ResultRow"]


class Outcome(enum.StrEnum):
    """The outcome of a reference."""

    BOUGHT = "bought"
    REFUSED = "refused"
    """This run bought nothing: the server responded with an error, or the order failed."""
    NOT_SENT = "not_sent"
    """This run bought nothing: it sent no completion."""
    UNKNOWN = "unknown"
    """The reference may have been bought."""
    NOT_STARTED = "not_started"
    """The command ended before it came to this reference. An earlier run may have bought it."""


@attrs.frozen
class ResultRow:
    """A line of the result file; its fields are the columns."""

    reference: str
    customer: str
    outcome: Outcome
    order: str | None = None
    number: str | None = None
    total: str | None = None
    currency: str | None = None
    replayed: str | None = None
    error: str | None = None
    """Reasons of an outcome that is not `bought`; of a purchase, how its order differs from what was agreed."""


_COLUMNS: Final = tuple(field.name for field in attrs.fields(ResultRow))
_HEADER: Final = format_csv(_COLUMNS, ()).encode()


class ResultFile:
    """A result file that is open and locked. Only the user can read it (mode 0600).

    After a crash, the file has the lines that were appended before.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path: Path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create the file, or empty it if it is the result file of an earlier run.

        Raises:
            ConfigurationError: if the file cannot be opened or written, has another content, or is in use.
        """
        if not path.parent.is_dir():
            raise ConfigurationError(f"result: the directory {path.parent} does not exist")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise ConfigurationError(f"result: {path} cannot be opened ({type(error).__name__})") from None
        result = cls(path, descriptor)
        try:
            result._start()
        except OSError as error:
            result.close()
            raise ConfigurationError(f"result: {path} cannot be written ({type(error).__name__})") from None
        except BaseException:
            result.close()
            raise
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: ResultRow) -> None:
        """Append a line, and write it to the disk.

        Raises:
            OSError: if it cannot be written; the file ends with the line before, if possible.
        """
        line = format_csv_row("" if cell is None else str(cell) for cell in attrs.astuple(row))
        self._write(line.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def _start(self) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise ConfigurationError(f"result: {self.path} is not a regular file")
        self._lock()
        if not _HEADER.startswith(os.read(self._descriptor, len(_HEADER))):
            raise ConfigurationError(f"result: {self.path} exists and is not a result file: give another --result")
        if sys.platform != "win32":
            os.fchmod(self._descriptor, 0o600)
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._write(_HEADER)

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl  # noqa: PLC0415 - Windows does not have it

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"result: {self.path} is in use: the plan is running already; give another --result to run it beside"
            ) from None

    def _write(self, data: bytes) -> None:
        begin = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):  # a torn line would hide the lines that follow
                os.ftruncate(self._descriptor, begin)
                os.lseek(self._descriptor, begin, os.SEEK_SET)
            raise
