"""Checks and creates the file of an SQLite journal.

SQLite finds the write-ahead log of a file (`-wal`) by the file's name. A file with two hard links has two logs, and
each process overwrites what the other one wrote. Such a file is rejected.

Nothing here opens the journal: closing any descriptor of a file releases every POSIX lock that this process holds on
it, including the locks of SQLite in other threads.
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

from minted_connect.clock import monotonic
from minted_connect.core.fsync import sync_directory
from minted_connect.errors import JournalError
from minted_connect.journal.paths import leads_nowhere

__all__ = ["FileLost", "JournalFile"]

_TEMPORARY_PREFIX: Final = ".minted-"
_CREATE_TIMEOUT: Final = 1.0
"""Seconds for another process to finish a new file: to remove its temporary name, and to write its first page."""
_MOUNTINFO: Final = Path("/proc/self/mountinfo")


class FileLost(Exception):
    """Raised if the file is not the one that was used before. The message completes "the journal PATH ..."."""


class JournalFile:
    """The file at a path. After the first use it must stay the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pinned: tuple[int, int] | None = None
        """Device and inode of the pinned file."""
        self.identity: str | None = None
        """Random id stored in the journal: a new file may get the inode of a deleted one."""
        self._hard_linked: tuple[int, int] | None = None
        """Device and inode of a file that was rejected for its hard links; it is not waited for again."""

    @property
    def wal(self) -> Path:
        """Path of the write-ahead log."""
        return Path(f"{os.path.realpath(self.path)}-wal")

    @property
    def is_pinned(self) -> bool:
        """Whether the file was used before, and must stay the same one."""
        return self._pinned is not None

    def check(self) -> int | None:
        """Return the size of the file, or None if it does not exist.

        Raises:
            FileLost: if a pinned file was deleted, emptied or replaced.
            JournalError: if the file has several hard links, is not a regular file, is mounted as a single file, or is
                empty beside a log with records.
            OSError: if the file cannot be accessed, or the path is a link into a directory that does not exist.
        """
        try:
            status = os.stat(self.path)  # noqa: PTH116 - `Path.stat` is the same, and tests replace this one
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._pinned is not None:
                raise FileLost("was deleted while in use") from error
            if isinstance(error, NotADirectoryError) or leads_nowhere(self.path):
                raise
            return None
        if not stat.S_ISREG(status.st_mode):
            raise JournalError(f"the journal {self.path} cannot be opened: it is not a regular file")
        if self._pinned is None:
            self._check_not_mounted()
        elif self._pinned != (status.st_dev, status.st_ino):
            raise FileLost("was replaced by another one while in use")
        if status.st_nlink > 1:
            self._check_hard_links()
        return status.st_size or self._check_empty()

    def pin(self, identity: str | None) -> None:
        """Pin the file that the path leads to now; later checks reject every other file.

        Args:
            identity: Random id stored in the journal; None for an older schema.

        Raises:
            FileLost: if another file is pinned.
        """
        if self.identity not in {None, identity}:
            raise FileLost("was replaced by another one while in use")
        self.identity = identity
        self.check_pinned()

    def check_pinned(self) -> None:
        """Check that the path leads to the pinned file; pin the file if none is pinned.

        Raises:
            FileLost: if the path leads to another file, or to no file.
        """
        try:
            status = os.stat(self.path)  # noqa: PTH116 - as above
        except OSError as error:
            raise FileLost("was deleted while in use") from error
        if self._pinned not in {None, (status.st_dev, status.st_ino)}:
            raise FileLost("was replaced by another one while in use")
        self._pinned = status.st_dev, status.st_ino

    def create(self) -> None:
        """Create an empty file if none exists. Only its owner may read it: it names customers and baskets."""
        path = Path(os.path.realpath(self.path))
        try:
            # Unlike `open`, this leaves no descriptor to close.
            os.mknod(path, 0o600 | stat.S_IFREG)
        except FileExistsError:
            return
        except (OSError, AttributeError):
            _create_by_link(path)
        sync_directory(path.parent)

    def _check_empty(self) -> int:
        """Return the size of a file that was empty a moment ago: another process may be creating the journal in it."""
        if self._pinned is not None:
            raise FileLost("was emptied while in use")
        deadline = monotonic() + _CREATE_TIMEOUT
        while self._has_log_records():
            # Check the log before the file: a new journal gets its first page before its log gets records.
            if size := os.stat(self.path).st_size:  # noqa: PTH116 - as above
                return size
            if monotonic() > deadline:
                # SQLite would delete the log of an empty file.
                raise JournalError(
                    f"the journal {self.path} is empty, but {self.wal} still contains records: restore the journal "
                    "from a copy, or find out which orders were made, and then remove both"
                )
            time.sleep(0.01)
        return 0

    def _has_log_records(self) -> bool:
        try:
            return self.wal.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _check_not_mounted(self) -> None:
        path = os.path.realpath(self.path)
        with suppress(OSError):
            for line in _MOUNTINFO.read_bytes().splitlines():
                # The mount point is the fifth field; the kernel writes spaces and backslashes as octal escapes.
                point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split()[4])
                if os.fsdecode(point) == path:
                    raise JournalError(
                        f"the journal {self.path} is mounted as a single file. SQLite keeps a log beside the journal, "
                        "which must be shared too: mount the directory of the journal"
                    )

    def _check_hard_links(self) -> None:
        """Reject a file with several hard links, unless another process removes its temporary one in time."""
        deadline = monotonic() + _CREATE_TIMEOUT
        while (status := os.stat(self.path)).st_nlink > 1:  # noqa: PTH116 - as above
            inode = status.st_dev, status.st_ino
            if monotonic() > deadline or inode == self._hard_linked:
                if self._remove_temporary_links(inode):
                    continue
                self._hard_linked = inode
                raise JournalError(
                    f"the journal {self.path} has {status.st_nlink} names (hard links), and SQLite is safe with one "
                    "only: remove the others, and use this name everywhere; a symbolic link to it is safe"
                )
            time.sleep(0.01)

    def _remove_temporary_links(self, inode: tuple[int, int]) -> bool:
        """Remove the temporary names that processes left behind which were killed in `create`."""
        removed = False
        for name in Path(os.path.realpath(self.path)).parent.glob(f"{_TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                status = name.lstat()
                if inode == (status.st_dev, status.st_ino):
                    name.unlink()
                    removed = True
        return removed


def _create_by_link(path: Path) -> None:
    """Create a file on a system without `mknod`: close a temporary file before it gets its final name."""
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=path.parent)
    os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        # The file system has no hard links (FAT). The descriptor is left open, because closing it would release the
        # locks of others on the file; this happens once for each new file.
        with suppress(FileExistsError):
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    finally:
        Path(temporary).unlink(missing_ok=True)
