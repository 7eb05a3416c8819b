"""The file of a journal: how it is created, recognised, and refused under a second name.

SQLite finds the log of a file (`-wal`) by the file's name. Under two names one file has two logs, and each process
overwrites what the other one wrote.

No function here opens the journal: closing any descriptor of a file drops every POSIX lock this process has on it,
those of SQLite in other threads too.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from minted_connect.core.fsync import sync_directory
from minted_connect.errors import JournalError

__all__ = ["FileLost", "JournalFile"]

_DRAFT: Final = ".minted-"
_PATIENCE: Final = 1.0
"""Seconds for another process to finish a new file: to drop its second name, to write its first page."""
_MOUNTS: Final = Path("/proc/self/mountinfo")


class FileLost(Exception):
    """Raised if the file is not the one that was used before. The text completes "the journal PATH ..."."""


class JournalFile:
    """The file at a path, and its identity since it was first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[int, int] | None = None
        """Device and inode."""
        self._identity: str | None = None
        """Drawn when the journal was made: the inode of a deleted file may be given to the next one."""
        self._refused: tuple[int, int] | None = None
        """A file that kept its second name."""

    @property
    def log(self) -> Path:
        """The log that SQLite keeps beside it."""
        return Path(f"{os.path.realpath(self.path)}-wal")

    def check(self) -> int | None:
        """Return the size of the file, None if it does not exist.

        Raises:
            FileLost: if it was used before, and is gone, empty or another one now.
            JournalError: if it has a second name, is no regular file, or was emptied beside its log.
            OSError: if it cannot be looked at.
        """
        try:
            found = os.stat(self.path)  # noqa: PTH116 - `Path.stat` is the same, and tests replace this one
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._known is not None:
                raise FileLost("was deleted while in use") from error
            if isinstance(error, NotADirectoryError):
                raise
            return None
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"the journal {self.path} cannot be opened: it is not a regular file")
        if self._known is None:
            self._check_not_mounted()
        elif self._known != (found.st_dev, found.st_ino):
            raise FileLost("was replaced by another one while in use")
        if found.st_nlink > 1:
            self._wait_for_one_name()
        return found.st_size or self._check_fresh()

    def mark_used(self, identity: str | None) -> None:
        """Remember the file that is there now; from now on it must stay.

        Args:
            identity: Of the journal in it, None for an older schema.

        Raises:
            FileLost: if it is not the one that was used before.
        """
        if self._identity not in {None, identity}:
            raise FileLost("was replaced by another one while in use")
        self._identity = identity
        self.check_name()

    def check_name(self) -> None:
        """Check that the path still leads to the file in use.

        Raises:
            FileLost: if it does not.
        """
        try:
            found = os.stat(self.path)  # noqa: PTH116 - as above
        except OSError as error:
            raise FileLost("was deleted while in use") from error
        if self._known not in {None, (found.st_dev, found.st_ino)}:
            raise FileLost("was replaced by another one while in use")
        self._known = found.st_dev, found.st_ino

    @property
    def is_used(self) -> bool:
        """Whether the file was used before."""
        return self._known is not None

    def create(self) -> None:
        """Create an empty file unless one exists. Only its owner may read it: it names customers and baskets."""
        path = Path(os.path.realpath(self.path))
        try:
            # Unlike `open`, this leaves no descriptor to close.
            os.mknod(path, 0o600 | stat.S_IFREG)
        except FileExistsError:
            return
        except (OSError, AttributeError):
            _create_by_link(path)
        sync_directory(path.parent)

    def _check_fresh(self) -> int:
        """Return the size of a file that was empty a moment ago: another process may be making the journal in it."""
        if self._known is not None:
            raise FileLost("was emptied while in use")
        give_up = time.monotonic() + _PATIENCE
        while self._has_records():
            # The log first, then the file: a maker writes the first page of the file before the log.
            if size := os.stat(self.path).st_size:  # noqa: PTH116 - as above
                return size
            if time.monotonic() > give_up:
                # SQLite would delete the log of an empty file.
                raise JournalError(
                    f"the journal {self.path} is empty, but {self.log} still holds records: restore the journal from a "
                    "copy, or find out which orders were made, and then remove both"
                )
            time.sleep(0.01)
        return 0

    def _has_records(self) -> bool:
        try:
            return self.log.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _check_not_mounted(self) -> None:
        path = os.path.realpath(self.path)
        with suppress(OSError):
            for line in _MOUNTS.read_bytes().splitlines():
                point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split()[4])
                if os.fsdecode(point) == path:
                    raise JournalError(
                        f"the journal {self.path} is mounted as a single file. SQLite keeps a log beside the journal, "
                        "which must be shared too: mount the directory that holds the journal"
                    )

    def _wait_for_one_name(self) -> None:
        """Wait for the end of another process's `create`, and refuse a file that keeps its second name."""
        give_up = time.monotonic() + _PATIENCE
        while (found := os.stat(self.path)).st_nlink > 1:  # noqa: PTH116 - as above
            known = found.st_dev, found.st_ino
            if time.monotonic() > give_up or known == self._refused:
                if self._remove_drafts(known):
                    continue
                self._refused = known
                raise JournalError(
                    f"the journal {self.path} has {found.st_nlink} names (hard links), and SQLite is safe with one "
                    "only: remove the others, and use this name everywhere; a symbolic link to it is safe"
                )
            time.sleep(0.01)

    def _remove_drafts(self, known: tuple[int, int]) -> bool:
        """Remove the names that a process left behind which was killed in `create`."""
        removed = False
        for draft in Path(os.path.realpath(self.path)).parent.glob(f"{_DRAFT}*"):
            with suppress(OSError):
                found = draft.lstat()
                if known == (found.st_dev, found.st_ino):
                    draft.unlink()
                    removed = True
        return removed


def _create_by_link(path: Path) -> None:
    """Create a file where `mknod` cannot; it is closed before it gets its name."""
    descriptor, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:
        # No hard links here (FAT). Left open for that reason: once for a new file, never again.
        with suppress(FileExistsError):
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    finally:
        Path(draft).unlink(missing_ok=True)
