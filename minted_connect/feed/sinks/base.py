"""The base class of sinks, and the path and error handling that they share."""

from __future__ import annotations

import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

from minted_connect import validation
from minted_connect.clock import monotonic
from minted_connect.errors import InvalidInput, SinkError
from minted_connect.feed.schema import RowId
from minted_connect.feed.tick import Filter, Tick

__all__ = [
    "PATIENCE",
    "LastRow",
    "Sink",
    "as_path",
    "check_patience",
    "file_identity",
    "find_last",
    "translate_os_errors",
]

_log = logging.getLogger("minted_connect.feed")

_T = TypeVar("_T")

PATIENCE: Final = 600.0
"""Default seconds to wait for a lock; equal to the default `patience` of `orders.watch`."""

_INTERRUPTED_WAIT: Final = 3.0
"""Seconds that a wait for a lock may last after it was interrupted. Shorter than the time in which a blocking client
waits for cancelled work, so that Ctrl-C still reports how the recording ended."""

_LOCK_POLL: Final = 0.05
"""Seconds between two attempts to acquire a lock."""


class LastRow(NamedTuple):
    """The row of a sink after which a recording continues."""

    number: int
    at: datetime


class Sink(ABC):
    """Base class of the destinations that ticks are recorded to.

    Use a sink with `record(feed, sink)`, or directly with `with sink: sink.append(ticks)`. Its methods block. To write
    a sink, subclass it and implement `open`, `append` and `close`.
    """

    patience: float = 0.0
    """Seconds that `open` and `append` wait for another program's lock on the destination; 0: they do not wait."""
    _interrupted_at: float = math.inf  # monotonic seconds

    def last_row(self, matches: Filter | None = None, /) -> LastRow | None:  # noqa: ARG002
        """Return number and time of the row after which a recording continues; None if it is not known.

        This is the oldest of the latest rows of all currencies; backfilled rows do not count. A recording
        of other currencies may have added rows since then. The sink must be open.

        Args:
            matches: selects the currencies of the recording; None for all.
        """
        return None

    def interrupt(self) -> None:
        """Shorten the current wait for a lock, and each later one until the sink is closed, to a few seconds.

        `record` calls it when it is cancelled, from another thread than the one that waits.
        """
        self._interrupted_at = min(self._interrupted_at, monotonic())

    def _retry_while_locked(self, place: Path, attempt: Callable[[], _T], is_locked: Callable[[Exception], bool]) -> _T:
        """Repeat `attempt` while it raises an error that `is_locked`, up to `patience` seconds; log the wait once."""
        started = monotonic()
        is_waiting = False
        while True:
            try:
                result = attempt()
            except Exception as error:
                now = monotonic()
                if not is_locked(error) or now >= min(
                    started + self.patience, self._interrupted_at + _INTERRUPTED_WAIT
                ):
                    raise
                if not is_waiting:
                    _log.warning("%s: locked by another program; waiting up to %g s", place, self.patience)
                is_waiting = True
                time.sleep(_LOCK_POLL)
            else:
                if is_waiting:
                    _log.info("%s: the lock was released after %.1f s", place, monotonic() - started)
                return result

    @abstractmethod
    def open(self) -> None:
        """Prepare for writing; a row that a crash left incomplete is removed (SQLite does that itself).

        Raises:
            SinkError: if the destination cannot be written, stays locked, or contains something other than ticks.
        """

    @abstractmethod
    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not recorded yet, and return the number of rows written.

        A tick is recorded if a row has the same currency and the same `at`; sinks that write files compare with their
        latest rows only. A backfilled tick also counts as recorded if a row of its currency has a later `at`, so that
        overlapping histories are not interleaved with older rows. After an error, nothing is recorded; after a crash,
        some of the ticks may be.

        Raises:
            SinkError: if the ticks cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Release resources. Idempotent."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check_patience(patience: Any) -> float:
    """Check the seconds to wait for a lock: 0, or a finite number above it.

    Raises:
        InvalidInput: if it is neither.
    """
    if not isinstance(patience, bool) and patience == 0:
        return 0.0
    return validation.seconds("patience", patience)


def as_path(path: Any, field: str = "path") -> Path:
    """Return `path` as a `Path`.

    Raises:
        InvalidInput: if `path` is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidInput.of(field, f"must be a path, not {type(path).__name__}")
    name = os.fspath(cast("str | os.PathLike[str]", path))
    if not isinstance(name, str) or not name or "\0" in name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of(field, "must be the path of a file")
    return Path(name)


def find_last(latest: Iterable[RowId], matches: Filter | None) -> LastRow | None:
    """Return the oldest of the rows that `matches` selects, each of which is the latest one of its currency."""
    selected = [row for row in latest if matches is None or matches.selects(row.key[0], row.metal, row.sku)]
    last = min(selected, default=None, key=lambda row: row.key[1])
    return None if last is None else LastRow(last.number, datetime.fromisoformat(last.key[1]))


@contextmanager
def translate_os_errors(path: Path) -> Generator[None]:
    """Raise an `OSError` of the block as a `SinkError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror or type(error).__name__}") from error


def file_identity(file: Path | int) -> tuple[int, int] | None:
    """Return device and inode of the file at a path or of a descriptor; None if the path does not exist.

    Raises:
        OSError: if the path cannot be read, for example if its parent is not a directory.
    """
    try:
        found = os.fstat(file) if isinstance(file, int) else file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
