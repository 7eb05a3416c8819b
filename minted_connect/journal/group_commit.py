"""Group commit for SQLite: writes that wait for the disk at the same time are committed together.

A commit waits for the disk, so one commit for each write would limit a process to some hundred writes per second.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from copy import copy
from typing import Any, Generic, Protocol, TypeVar

import attrs

__all__ = ["Database", "GroupCommit", "Write"]

_T = TypeVar("_T")


class Database(Protocol):
    """The methods of a journal that a group commit calls."""

    def connect_to_write(self, deadline: float) -> AbstractContextManager[sqlite3.Connection]:
        """Open the file for writing; it is closed at the end. Errors of the block are raised as JournalError."""
        ...

    def translate_errors(self) -> AbstractContextManager[None]:
        """Raise errors of SQLite as JournalError."""
        ...

    def check_file(self) -> None:
        """Check that the path still leads to the file that was changed."""
        ...


@attrs.define(eq=False)
class Write(Generic[_T]):
    """One write, which is committed whole or not at all."""

    work: Callable[[sqlite3.Connection], _T]
    """Changes the database inside a transaction with the write lock. If it raises, its changes are undone."""
    on_commit: Callable[[], object] | None = None
    """Called once the changes are durable."""
    results: list[_T] = attrs.field(factory=list[_T])
    """The result of `work`, once it is durable."""
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether it was committed, or has failed."""
        return self.error is not None or bool(self.results)


class GroupCommit:
    """The queue of the writes of one process to one file."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._queue: deque[Write[Any]] = deque()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def add(self, write: Write[Any]) -> None:
        """Queue a write: the next call of `finish` for any write commits it."""
        if self._pid != os.getpid():
            # After a fork, the writes that were queued, and perhaps the lock, belong to the parent process.
            self._reset()
        self._queue.append(write)

    def discard(self, write: Write[Any]) -> None:
        """Remove a write for which `finish` will not be called."""
        with suppress(ValueError):
            self._queue.remove(write)

    def finish(self, write: Write[_T], database: Database, deadline: float) -> _T:
        """Commit a write together with all that are queued, and return its result.

        Args:
            write: A write that was added.
            database: The file. Not kept, so that the journal is freed with its last reference.
            deadline: Monotonic time until which to wait for the write lock of other processes.

        Raises:
            Exception: the error of the write, or JournalError if the commit fails.
        """
        with self._lock:
            if not write.is_done:
                self._commit(write, database, deadline)
        if write.error is not None:
            raise write.error
        return write.results[0]

    def _commit(self, first: Write[Any], database: Database, deadline: float) -> None:
        batch = [self._queue.popleft() for _ in range(len(self._queue))]
        has_begun = False
        done: list[tuple[Write[Any], Any]] = []
        try:
            with database.connect_to_write(deadline) as connection:
                connection.execute("BEGIN IMMEDIATE")
                has_begun = True
                done = _execute(batch, database, connection)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            if not has_begun:
                # Nothing was changed: the others wait for the write lock, too, each until its own deadline.
                self._queue.extendleft(write for write in reversed(batch) if write is not first)
                first.error = error
                return
            for write in batch:
                # One error object for each caller, because errors collect the tracebacks of those that raise them.
                write.error = write.error or copy(error)
        for write, result in done:
            write.results.append(result)


def _execute(
    batch: Sequence[Write[Any]], database: Database, connection: sqlite3.Connection
) -> list[tuple[Write[Any], Any]]:
    """Execute and commit writes; return those that succeeded, with their results."""
    done: list[tuple[Write[Any], Any]] = []
    try:
        for write in batch:
            connection.execute("SAVEPOINT one_write")
            try:
                with database.translate_errors():
                    done.append((write, write.work(connection)))
            except Exception as error:
                # After some errors, such as a full disk, SQLite has undone the whole transaction.
                if not connection.in_transaction:
                    raise
                connection.execute("ROLLBACK TO one_write")
                write.error = error
            connection.execute("RELEASE one_write")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    database.check_file()
    for write, _ in done:
        if write.on_commit is not None:
            write.on_commit()
    return done
