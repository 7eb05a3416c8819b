"""Reads files that hold a password, and refuses those that other users may have changed or can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from minted_connect.errors import ConfigurationError

__all__ = ["read_private"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read_private(file: Path, what: str) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Other users may read a mounted secret: a file on a read-only file system, or one that this user does not own or that
    its owner cannot write, in a directory that others cannot write to. Links are resolved.

    Args:
        file: The file.
        what: Name of the setting, for errors.

    Raises:
        ConfigurationError: if other users can change the file, or read it elsewhere, or if it cannot be read.
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
    # Not `Path.resolve`, which raises RuntimeError for a loop of links before Python 3.13.
    real = Path(os.path.realpath(file, strict=True))
    status = real.stat()
    if not status.st_mode & _OTHERS:
        return None
    is_read_only = bool(os.statvfs(real).f_flag & os.ST_RDONLY)
    can_write = bool(status.st_mode & _OTHERS_WRITE)
    if not can_write:
        is_kept_by_user = os.geteuid() == status.st_uid and bool(status.st_mode & stat.S_IWUSR)
        if is_read_only or not (is_kept_by_user or real.parent.stat().st_mode & _OTHERS_WRITE):
            return None
    name = str(file) if real == file.absolute() else f"{file} (a link to {real})"
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        return f"{name} is not a regular file"
    problem = f"other users can {'change' if can_write else 'access'} {name}"
    if not is_read_only and os.geteuid() in {0, status.st_uid}:
        return f"{problem}; run: chmod 600 {real}"
    # `chmod` would fail: the file belongs to another user, or its file system is read-only.
    return f"{problem}; mount it read-only with mode 0440, or use a copy that belongs to this user and has mode 0600"
