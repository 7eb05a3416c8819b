"""The base class of sinks, and the path and error handling that they share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from minted_connect.errors import InvalidInput, SinkError
from minted_connect.feed.tick import Tick

__all__ = ["Sink", "as_path", "translate_os_errors"]


class Sink(ABC):
    """Base class of the destinations that ticks are recorded to.

    Use a sink with `record(feed, sink)`, or directly with `with sink: sink.append(ticks)`. Its methods block. To write
    a sink, subclass it and implement `open`, `append` and `close`.
    """

    @abstractmethod
    def open(self) -> None:
        """Prepare for writing; a row that a crash left incomplete is removed (SQLite does that itself).

        Raises:
            SinkError: if the destination cannot be written, or contains something other than ticks.
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


@contextmanager
def translate_os_errors(path: Path) -> Generator[None]:
    """Raise an `OSError` of the block as a `SinkError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror or type(error).__name__}") from error
