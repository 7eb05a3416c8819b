"""Files of ticks that survive a crash: a row is there whole or not at all, and never twice."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from minted_connect import validation
from minted_connect.errors import InvalidInput, SinkError
from minted_connect.feed.schema import NAMES, Key, key_of, to_text
from minted_connect.feed.tick import Tick

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CsvSink", "JsonLinesSink", "Sink", "checked_path", "troubles"]

_log = logging.getLogger("minted_connect.feed")

_AT, _CURRENCY_ID = NAMES.index("at"), NAMES.index("currency_id")

_TAIL: Final = 2**20
"""Bytes at the end of a file that are looked through for what is there already."""
_KEPT: Final = 20_000
"""Keys that are remembered: more than the tail holds."""


class Sink(ABC):
    """Where ticks are recorded: `with sink: sink.append(ticks)`, or `record(feed, sink)`. Its methods block.

    A sink of your own is a subclass with the three methods.
    """

    @abstractmethod
    def open(self) -> None:
        """Get ready: mend what a crash left.

        Raises:
            SinkError: it cannot be written, or holds something else.
        """

    @abstractmethod
    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not there yet, all or none; return how many those were.

        A tick is there if a row has its currency and its `at`; one of Rate History also if a row of its currency has
        a later `at`, so that overlapping histories do not come to stand between the ticks.

        Raises:
            SinkError: they cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go; may be called again."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def checked_path(path: Any, field: str = "path") -> Path:
    """Return a path.

    Raises:
        InvalidInput: it is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidInput.of(field, f"must be a path, not {type(path).__name__}")
    name = os.fspath(cast("str | os.PathLike[str]", path))
    if not isinstance(name, str) or not name or "\0" in name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of(field, "must be the path of a file")
    return Path(name)


@contextmanager
def troubles(place: Path) -> Generator[None]:
    """Raise what the operating system says of a file as a `SinkError`."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{place}: {error.strerror or type(error).__name__}") from error


class _Recent:
    """Knows what has been recorded: the keys of the last rows, and the last time of each currency."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}  # oldest first
        self._latest: dict[int, str] = {}

    def add(self, keys: Iterable[Key]) -> None:
        """Remember these keys, for as long as there is room."""
        for key in keys:
            self._keys[key] = None
            currency_id, at = key
            self._latest[currency_id] = max(at, self._latest.get(currency_id, ""))
        while len(self._keys) > _KEPT:
            del self._keys[next(iter(self._keys))]

    def new(self, ticks: Iterable[Tick]) -> list[Tick]:
        """Return those that have not been recorded, each once; `add` is what makes them known."""
        found: dict[Key, Tick] = {}
        for tick in ticks:
            key = key_of(tick)
            if key in self._keys or (tick.backfilled and key[1] <= self._latest.get(key[0], "")):
                continue
            found.setdefault(key, tick)
        return list(found.values())


class _LinesSink(Sink):
    """A file of lines, a row each."""

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self.path: Final[Path] = checked_path(path)
        validation.boolean("fsync", fsync)
        self._fsync = fsync
        self._file: BinaryIO | None = None
        self._recent = _Recent()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    _head = b""
    """What a new file begins with."""
    _begins = b""
    """What every file begins with."""

    @abstractmethod
    def _line(self, row: dict[str, Any]) -> str: ...

    @abstractmethod
    def _key(self, line: bytes) -> Key | None:
        """Read the key of a row; None if it is no row of this kind."""

    def open(self) -> None:
        """Open the file, and cut off what a crash left half written.

        Raises:
            SinkError: it cannot be written, another one writes to it, or it holds something else.
        """
        if self._file is not None:
            raise SinkError(f"{self.path}: this sink is open already")
        with troubles(self.path):
            file = _unbuffered(self.path)
            try:
                self._lock(file)
                self._mend(file)
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
            raise SinkError(f"{self.path}: another process, or another sink of this one, writes to it") from None

    def _mend(self, file: BinaryIO) -> None:
        """Cut off a row that was not finished, and take note of those before."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        begins = file.read(len(self._begins))
        if not self._begins.startswith(begins):
            raise SinkError(f"{self.path}: holds something else than ticks; nothing was changed")
        if size < len(self._begins):
            _cut(file, 0)
            _write(file, self._head)
            return
        start = max(len(self._head), size - _TAIL)
        file.seek(start)
        *rows, torn = file.read().split(b"\n")
        if start > len(self._head):
            del rows[:1]  # it begins somewhere before
        keys = [key for key in map(self._key, rows) if key is not None]
        if len(keys) < len(rows):
            raise SinkError(f"{self.path}: a row in it cannot be read; nothing was changed")
        if torn:
            _log.warning("%s: a row that was not finished is cut off", self.path)
            _cut(file, size - len(torn))
        self._recent.add(keys)

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not there yet, all or none; return how many those were."""
        file = self._file
        if file is None:
            raise SinkError(f"{self.path}: this sink is not open")
        new = self._recent.new(ticks)
        if not new:
            return 0
        text = "".join([f"{self._line(row)}\n" for row in map(to_text, new)])
        with troubles(self.path):
            size = file.seek(0, os.SEEK_END)
            try:
                _write(file, text.encode())
                if self._fsync:
                    os.fsync(file.fileno())
            except BaseException:
                _cut(file, size)
                raise
        self._recent.add(map(key_of, new))
        return len(new)

    def close(self) -> None:
        """Close the file; may be called again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _unbuffered(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return cast("BinaryIO", os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0))


def _write(file: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _cut(file: BinaryIO, size: int) -> None:
    file.truncate(size)
    file.seek(size)


class JsonLinesSink(_LinesSink):
    """A file of JSON objects, one a line (NDJSON): money and times are strings, exact.

    Args:
        path: the file; made if it is not there.
        fsync: have each batch on the disk before going on, so that a power cut loses nothing that was appended. Without
            it, only the end of the process does not.

    Raises:
        InvalidInput: `path` is no path.
    """

    _begins = b'{"at": "'

    def _line(self, row: dict[str, Any]) -> str:
        return json.dumps(row)

    def _key(self, line: bytes) -> Key | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not isinstance(row, dict) or [*cast("dict[str, Any]", row)] != NAMES:
            return None
        return _checked(row["currency_id"], row["at"])

    @property
    def is_open(self) -> bool:
        """Whether it has been opened, and not closed since."""
        return self._file is not None

    def remember(self, keys: Iterable[Key]) -> None:
        """Take these for recorded: they are elsewhere."""
        self._recent.add(keys)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, as the file holds them."""
        assert self._file is not None
        self._file.seek(0)
        return [json.loads(line) for line in self._file.read().splitlines()]

    def clear(self) -> None:
        """Forget all rows; their keys stay remembered."""
        assert self._file is not None
        with troubles(self.path):
            _cut(self._file, 0)


class CsvSink(_LinesSink):
    """A file of comma-separated values with a header (RFC 4180, in UTF-8, lines ending in LF).

    Money is exact, times are ISO 8601, what there is not is empty. A row is a line: a name with a line break in it has
    a space there.

    Args:
        path: the file; made if it is not there.
        fsync: have each batch on the disk before going on, so that a power cut loses nothing that was appended. Without
            it, only the end of the process does not.

    Raises:
        InvalidInput: `path` is no path.
    """

    _head = _begins = (",".join(NAMES) + "\n").encode()

    def _line(self, row: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([_cell(value) for value in row.values()])
        return text.getvalue()

    def _key(self, line: bytes) -> Key | None:
        try:
            (row,) = csv.reader([line.decode()], strict=True)
            if len(row) != len(NAMES):
                return None
            return _checked(int(row[_CURRENCY_ID]), row[_AT])
        except (ValueError, csv.Error):
            return None


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value.splitlines()) if isinstance(value, str) else value


def _checked(currency_id: Any, at: Any) -> Key | None:
    if isinstance(currency_id, int) and isinstance(at, str) and len(at) == len("2026-02-20T12:27:57.000000+00:00"):
        return currency_id, at
    return None
