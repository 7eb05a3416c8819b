"""Sinks that write a line per tick, and survive a crash: each row is complete or absent.

Ticks that are among the latest rows of the file are not written again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from minted_connect import validation
from minted_connect.errors import SinkError
from minted_connect.feed.schema import NAMES, Key, make_key, to_text
from minted_connect.feed.sinks.base import Sink, as_path, translate_os_errors
from minted_connect.feed.tick import Tick

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CsvSink", "JsonLinesSink"]

_log = logging.getLogger("minted_connect.feed")

_AT, _CURRENCY_ID = NAMES.index("at"), NAMES.index("currency_id")

_TAIL_BYTES: Final = 2**20
"""Size of the end of a file that is searched for rows already recorded."""
_MAX_KEYS: Final = 20_000
"""Limit of remembered keys: more than the tail of a file contains."""


class _RecentKeys:
    """The keys of the rows recorded last, and the latest `at` of each currency."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}  # oldest first
        self._latest: dict[int, str] = {}

    def add(self, keys: Iterable[Key]) -> None:
        """Remember the keys; forget the oldest ones beyond `_MAX_KEYS`."""
        for key in keys:
            self._keys[key] = None
            currency_id, at = key
            self._latest[currency_id] = max(at, self._latest.get(currency_id, ""))
        while len(self._keys) > _MAX_KEYS:
            del self._keys[next(iter(self._keys))]

    def unrecorded(self, ticks: Iterable[Tick]) -> list[Tick]:
        """Return the ticks that are not recorded, without duplicates; do not remember them."""
        found: dict[Key, Tick] = {}
        for tick in ticks:
            key = make_key(tick)
            if key in self._keys or (tick.backfilled and key[1] <= self._latest.get(key[0], "")):
                continue
            found.setdefault(key, tick)
        return list(found.values())


class _LinesSink(Sink):
    """A file with one row per line."""

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self.path: Final[Path] = as_path(path)
        validation.boolean("fsync", fsync)
        self._fsync = fsync
        self._file: BinaryIO | None = None
        self._recent = _RecentKeys()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    _header = b""
    """Written at the start of a new file."""
    _prefix = b""
    """The bytes that every file of this kind starts with."""

    @abstractmethod
    def _line(self, row: dict[str, Any]) -> str: ...

    @abstractmethod
    def _parse_key(self, line: bytes) -> Key | None:
        """Return the key of a row, or None if the line is not a row."""

    def open(self) -> None:
        """Open and lock the file, and truncate a row that a crash left incomplete.

        The lock is advisory, and Windows has no such lock.

        Raises:
            SinkError: if the file cannot be written, is open in another sink, or contains something other than ticks.
        """
        if self._file is not None:
            raise SinkError(f"{self.path}: this sink is already open")
        with translate_os_errors(self.path):
            file = _open_unbuffered(self.path)
            try:
                self._lock(file)
                self._repair(file)
            except BaseException:
                file.close()
                raise
        self._file = file

    def _lock(self, file: BinaryIO) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SinkError(f"{self.path}: another process or another sink is writing to this file") from None

    def _repair(self, file: BinaryIO) -> None:
        """Truncate an incomplete last row, and remember the keys of the complete ones."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        prefix = file.read(len(self._prefix))
        if not self._prefix.startswith(prefix):
            raise SinkError(f"{self.path}: contains something other than ticks; nothing was changed")
        if size < len(self._prefix):
            _truncate(file, 0)
            _write_all(file, self._header)
            return
        start = max(len(self._header), size - _TAIL_BYTES)
        file.seek(start)
        *rows, incomplete = file.read().split(b"\n")
        if start > len(self._header):
            del rows[:1]  # its beginning lies before `start`
        keys = [key for key in map(self._parse_key, rows) if key is not None]
        if len(keys) < len(rows):
            raise SinkError(f"{self.path}: contains a row that cannot be read; nothing was changed")
        if incomplete:
            _log.warning("%s: an incomplete row at the end is truncated", self.path)
            _truncate(file, size - len(incomplete))
        self._recent.add(keys)

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not recorded yet, all or none; return the number of rows written.

        Raises:
            SinkError: if the sink is not open, or the ticks cannot be written.
        """
        file = self._file
        if file is None:
            raise SinkError(f"{self.path}: this sink is not open")
        unrecorded = self._recent.unrecorded(ticks)
        if not unrecorded:
            return 0
        text = "".join([f"{self._line(row)}\n" for row in map(to_text, unrecorded)])
        with translate_os_errors(self.path):
            size = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, text.encode())
                if self._fsync:
                    os.fsync(file.fileno())
            except BaseException:
                _truncate(file, size)
                raise
        self._recent.add(map(make_key, unrecorded))
        return len(unrecorded)

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _open_unbuffered(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return cast("BinaryIO", os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0))


def _write_all(file: BinaryIO, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:  # a raw file may write fewer bytes than given
        remaining = remaining[file.write(remaining) :]


def _truncate(file: BinaryIO, size: int) -> None:
    file.truncate(size)
    file.seek(size)


class JsonLinesSink(_LinesSink):
    """Write ticks as JSON objects, one per line (NDJSON). Money and times are strings, exact.

    Args:
        path: the file; created if it does not exist.
        fsync: call `fsync` after each batch, so that appended rows survive a power failure. Without it, they survive a
            crash of the process only.

    Raises:
        InvalidInput: if `path` is not a path, or `fsync` is not a bool.
    """

    _prefix = b'{"at": "'

    def _line(self, row: dict[str, Any]) -> str:
        return json.dumps(row)

    def _parse_key(self, line: bytes) -> Key | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not isinstance(row, dict) or [*cast("dict[str, Any]", row)] != NAMES:
            return None
        return _as_key(row["currency_id"], row["at"])

    @property
    def is_open(self) -> bool:
        """Whether the sink is open."""
        return self._file is not None

    def remember(self, keys: Iterable[Key]) -> None:
        """Count these keys as recorded, although their rows are stored elsewhere."""
        self._recent.add(keys)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of the file as JSON values."""
        assert self._file is not None
        self._file.seek(0)
        return [json.loads(line) for line in self._file.read().splitlines()]

    def clear(self) -> None:
        """Delete all rows of the file; their keys still count as recorded."""
        assert self._file is not None
        with translate_os_errors(self.path):
            _truncate(self._file, 0)


class CsvSink(_LinesSink):
    """Write ticks as comma-separated values with a header (RFC 4180, but UTF-8 with LF line endings).

    Money is exact, times are ISO 8601, and None is an empty field. Each row is one line: a line break in a name is
    written as a space.

    Args:
        path: the file; created if it does not exist.
        fsync: call `fsync` after each batch, so that appended rows survive a power failure. Without it, they survive a
            crash of the process only.

    Raises:
        InvalidInput: if `path` is not a path, or `fsync` is not a bool.
    """

    _header = _prefix = (",".join(NAMES) + "\n").encode()

    def _line(self, row: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([_csv_field(value) for value in row.values()])
        return text.getvalue()

    def _parse_key(self, line: bytes) -> Key | None:
        try:
            (row,) = csv.reader([line.decode()], strict=True)
            if len(row) != len(NAMES):
                return None
            return _as_key(int(row[_CURRENCY_ID]), row[_AT])
        except (ValueError, csv.Error):
            return None


def _csv_field(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value.splitlines()) if isinstance(value, str) else value


def _as_key(currency_id: Any, at: Any) -> Key | None:
    if isinstance(currency_id, int) and isinstance(at, str) and len(at) == len("2026-02-20T12:27:57.000000+00:00"):
        return currency_id, at
    return None
