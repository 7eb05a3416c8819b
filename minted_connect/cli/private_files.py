"""Reads files with a password. Refuses those that other users can change or, except for mounted secrets, can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from minted_connect.errors import ConfigurationError

__all__ = ["read_private"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_REMEDY = "mount it read-only with mode 0440, or use a copy that belongs to this user and has mode 0600"


def read_private(file: Path, what: str) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    A file must belong to root or this user. Others may read it only if it is a mounted secret: one that belongs to root
    and not to this user, or that its owner cannot write (mode 0440 or 0444), in a directory that others cannot write
    to. On a read-only file system, any user may own and read it. Root can change and read every file. Links are
    followed. Of a pipe, only the mode is checked.

    Args:
        file: The file.
        what: Name of the setting, for errors.

    Raises:
        ConfigurationError: if the file breaks one of these rules, or if it cannot be read, is a
            directory or a device.
    """
    try:
        problem = _find_problem(file) if os.name == "posix" else None
        text = "" if problem else file.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{what}: {file} cannot be read ({type(error).__name__})") from None
    except UnicodeError as error:
        raise ConfigurationError(f"{what}: {file} cannot be read ({type(error).__name__}): save it as UTF-8") from None
    if problem is not None:
        raise ConfigurationError(f"{what}: {problem}")
    return text


def _find_problem(file: Path) -> str | None:
    status = file.stat()
    is_pipe = stat.S_ISFIFO(status.st_mode)
    if not (is_pipe or stat.S_ISREG(status.st_mode)):
        return f"{file} is not a regular file"
    is_own = os.geteuid() == status.st_uid
    is_owner_trusted = is_own or status.st_uid == 0 or is_pipe
    if is_owner_trusted and not status.st_mode & _OTHERS:
        return None  # also the pipe of `--password-file <(command)`, whose link in /dev/fd leads to no path
    real = file.resolve()
    name = str(file) if real == file.absolute() else f"{file} (a link to {real})"
    is_read_only = bool(os.statvfs(real).f_flag & os.ST_RDONLY)
    if not (is_owner_trusted or is_read_only):
        return f"another user owns {name} and can change it; {_REMEDY}"
    can_write = bool(status.st_mode & _OTHERS_WRITE)
    if not can_write:
        is_kept_by_user = is_own and bool(status.st_mode & stat.S_IWUSR)
        if is_read_only or not (is_kept_by_user or real.parent.stat().st_mode & _OTHERS_WRITE):
            return None
    problem = f"other users can {'change' if can_write else 'access'} {name}"
    if not is_read_only and os.geteuid() in {0, status.st_uid}:
        return f"{problem}; run: chmod 600 {real}"
    # `chmod` would fail: the file belongs to another user, or its file system is read-only.
    return f"{problem}; {_REMEDY}"
