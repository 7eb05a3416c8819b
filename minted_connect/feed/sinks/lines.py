"""Sinks that write a line per tick, and survive a crash: each row is complete or absent.

Ticks that are among the latest rows of the file are not written again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from minted_connect import validation
from minted_connect.errors import SinkError
from minted_connect.feed.schema import NAMES, Key, RowId, make_key, make_row_id, to_text
from minted_connect.feed.sinks.base import (
    LastRow,
    Sink,
    as_path,
    check_patience,
    file_identity,
    find_last,
    translate_os_errors,
)
from minted_connect.feed.tick import Filter, Tick

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CsvSink", "JsonLinesSink"]

_log = logging.getLogger("minted_connect.feed")

_AT, _CURRENCY_ID, _NUMBER, _METAL, _SKU = [
    NAMES.index(name) for name in ("at", "currency_id", "number", "metal", "sku")
]

_TAIL_BYTES: Final = 2**20
"""Size of the end of a file that is searched for rows already recorded."""
_MAX_ROWS: Final = 20_000
"""Limit of remembered rows: more than the tail of a file contains."""


class _RecentRows:
    """The rows recorded last, and the latest `at` of each currency."""

    def __init__(self) -> None:
        self._rows: dict[Key, RowId] = {}  # oldest first
        self._latest: dict[int, str] = {}

    def add(self, rows: Iterable[RowId]) -> None:
        """Remember the rows; forget the oldest ones beyond `_MAX_ROWS`."""
        for row in rows:
            self._rows[row.key] = row
            currency_id, at = row.key
            self._latest[currency_id] = max(at, self._latest.get(currency_id, ""))
        while len(self._rows) > _MAX_ROWS:
            del self._rows[next(iter(self._rows))]

    def add_older(self, rows: Iterable[RowId]) -> None:
        """Remember rows that are older than those remembered so far; they are forgotten first."""
        newer, self._rows = self._rows, {}
        self.add([*rows, *newer.values()])

    def latest(self) -> list[RowId]:
        """Return the latest row of each currency that is remembered and not backfilled."""
        latest: dict[int, RowId] = {}
        for row in self._rows.values():
            currency_id, at = row.key
            if row.number and (currency_id not in latest or latest[currency_id].key[1] < at):
                latest[currency_id] = row
        return [*latest.values()]

    def unrecorded(self, ticks: Iterable[Tick]) -> list[Tick]:
        """Return the ticks that are not recorded, without duplicates; do not remember them."""
        found: dict[Key, Tick] = {}
        for tick in ticks:
            key = make_key(tick)
            if key in self._rows or (tick.backfilled and key[1] <= self._latest.get(key[0], "")):
                continue
            found.setdefault(key, tick)
        return list(found.values())


class _LinesSink(Sink):
    """A file with one row per line."""

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False, patience: float = 0.0) -> None:
        self.path: Final[Path] = as_path(path)
        validation.boolean("fsync", fsync)
        self.patience: float = check_patience(patience)
        self._fsync = fsync
        self._file: BinaryIO | None = None
        self._end = 0  # size of the file after the last write
        self._absolute = self.path  # set by `open`: a change of the working directory must not look like a rotation
        self._recent = _RecentRows()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    _header = b""
    """Written at the start of a new file."""
    _prefix = b""
    """The bytes that every file of this kind starts with."""

    @abstractmethod
    def _line(self, row: dict[str, Any]) -> str: ...

    @abstractmethod
    def _parse_id(self, line: bytes) -> RowId | None:
        """Return key and number of a row, or None if the line is not a row."""

    def open(self) -> None:
        """Open and lock the file, and truncate a row that a crash left incomplete.

        The lock is advisory, and Windows has no such lock.

        Raises:
            SinkError: if the file cannot be written, is open in another sink, or contains something other than ticks.
        """
        if self._file is not None:
            raise SinkError(f"{self.path}: this sink is already open")
        with translate_os_errors(self.path):
            self._absolute = self.path.absolute()
            self._file = self._open_file()

    def _open_file(self) -> BinaryIO:
        file = _open_unbuffered(self._absolute)
        try:
            self._lock(file)
            self._repair(file)
        except BaseException:
            file.close()
            raise
        return file

    def _lock(self, file: BinaryIO) -> None:
        if fcntl is None:
            return
        lock = partial(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self._retry_while_locked(self.path, lock, lambda error: isinstance(error, BlockingIOError))
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
            self._end = len(self._header)
            return
        start = max(len(self._header), size - _TAIL_BYTES)
        file.seek(start)
        *rows, incomplete = file.read().split(b"\n")
        if start > len(self._header):
            del rows[:1]  # its beginning lies before `start`
        ids = [id_ for id_ in map(self._parse_id, rows) if id_ is not None]
        if len(ids) < len(rows):
            raise SinkError(f"{self.path}: contains a row that cannot be read; nothing was changed")
        if incomplete:
            _log.warning("%s: an incomplete row at the end is truncated", self.path)
            _truncate(file, size - len(incomplete))
        self._end = size - len(incomplete)
        self._recent.add(ids)

    def is_changed(self) -> bool:
        """Return whether another program truncated, extended, moved, replaced or deleted the open file."""
        assert self._file is not None
        return self._is_replaced(self._file) or os.fstat(self._file.fileno()).st_size != self._end

    def _is_replaced(self, file: BinaryIO) -> bool:
        return file_identity(self._absolute) != file_identity(file.fileno())

    def _update(self, file: BinaryIO) -> BinaryIO:
        """Return the file to write to: open a replaced file again, and repair a file whose size was changed."""
        if self._is_replaced(file):
            _log.warning("%s: the file was moved, replaced or deleted; opening the path again", self.path)
            replaced, file = file, self._open_file()
            replaced.close()
            self._file = file
        elif os.fstat(file.fileno()).st_size != self._end:
            _log.warning("%s: another program changed the size of the file", self.path)
            self._repair(file)
        return file

    def last_row(self, matches: Filter | None = None, /) -> LastRow | None:
        """Return number and time of the row after which a recording continues; None if the end of the file has none."""
        return find_last(self._recent.latest(), matches)

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not recorded yet, all or none; return the number of rows written.

        Raises:
            SinkError: if the sink is not open, or the ticks cannot be written.
        """
        file = self._file
        if file is None:
            raise SinkError(f"{self.path}: this sink is not open")
        if not ticks:
            return 0
        with translate_os_errors(self.path):
            file = self._update(file)
        unrecorded = self._recent.unrecorded(ticks)
        text = "".join([f"{self._line(row)}\n" for row in map(to_text, unrecorded)])
        data = text.encode()
        if not data:
            return 0
        with translate_os_errors(self.path):
            size = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, data)
                if self._fsync:
                    os.fsync(file.fileno())
            except BaseException:
                _truncate(file, size)
                raise
        self._end = size + len(data)
        self._recent.add([make_row_id(tick) for tick in unrecorded])
        return len(unrecorded)

    def close(self) -> None:
        """Close the file. Idempotent."""
        # Not in `open`: the interruption of a recording may come before its thread has called `open`.
        self._interrupted_at = math.inf
        self.release()

    def release(self) -> None:
        """Close the file without forgetting an interruption. Idempotent."""
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
        patience: seconds that `open` waits while another sink writes to the file; 0: it raises at once.

    Raises:
        InvalidInput: if `path` is not a path, `fsync` is not a bool, or `patience` is neither 0 nor seconds.
    """

    _prefix = b'{"at": "'

    def _line(self, row: dict[str, Any]) -> str:
        return json.dumps(row)

    def _parse_id(self, line: bytes) -> RowId | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not isinstance(row, dict) or [*cast("dict[str, Any]", row)] != NAMES:
            return None
        return _as_id(row["currency_id"], row["at"], row["number"], row["metal"], row["sku"])

    @property
    def is_open(self) -> bool:
        """Whether the sink is open."""
        return self._file is not None

    def remember(self, rows: Iterable[RowId]) -> None:
        """Count these rows as recorded, which are stored elsewhere and older than those of the file."""
        self._recent.add_older(rows)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of the file as JSON values."""
        assert self._file is not None
        with translate_os_errors(self.path):
            self._file.seek(0)
            return [json.loads(line) for line in self._file.read().splitlines()]

    def clear(self) -> None:
        """Delete all rows of the file; they still count as recorded."""
        assert self._file is not None
        with translate_os_errors(self.path):
            _truncate(self._file, 0)
        self._end = 0


class CsvSink(_LinesSink):
    """Write ticks as comma-separated values with a header (RFC 4180, but UTF-8 with LF line endings).

    Money is exact, times are ISO 8601, and None is an empty field. Each row is one line: a line break in a name is
    written as a space.

    Args:
        path: the file; created if it does not exist.
        fsync: call `fsync` after each batch, so that appended rows survive a power failure. Without it, they survive a
            crash of the process only.
        patience: seconds that `open` waits while another sink writes to the file; 0: it raises at once.

    Raises:
        InvalidInput: if `path` is not a path, `fsync` is not a bool, or `patience` is neither 0 nor seconds.
    """

    _header = _prefix = (",".join(NAMES) + "\n").encode()

    def _line(self, row: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([_csv_field(value) for value in row.values()])
        return text.getvalue()

    def _parse_id(self, line: bytes) -> RowId | None:
        try:
            (row,) = csv.reader([line.decode()], strict=True)
            if len(row) != len(NAMES):
                return None
            return _as_id(int(row[_CURRENCY_ID]), row[_AT], int(row[_NUMBER]), row[_METAL], row[_SKU] or None)
        except (ValueError, csv.Error):
            return None


def _csv_field(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value.splitlines()) if isinstance(value, str) else value


def _as_id(currency_id: Any, at: Any, number: Any, metal: Any, sku: Any) -> RowId | None:
    is_id = isinstance(currency_id, int) and isinstance(number, int) and isinstance(at, str)
    if is_id and len(at) == len("2026-02-20T12:27:57.000000+00:00"):
        return RowId((currency_id, at), number, metal, sku)
    return None
