"""Validation of the path of a journal file."""

from __future__ import annotations

import os

from minted_connect.errors import ConfigurationError

__all__ = ["check_directory", "check_path", "leads_nowhere"]


def check_path(path: str | bytes) -> None:
    """Refuse the names that SQLite reserves, and its URIs.

    Raises:
        ConfigurationError: if `path` is `:memory:`, or begins with `file:`.
    """
    name = path.decode(errors="replace") if isinstance(path, bytes) else path
    is_uri = name.casefold().startswith("file:")
    if name.strip().casefold() == ":memory:" or (is_uri and ":memory:" in name):
        raise ConfigurationError("journal: must be the path of a file; for a journal in memory leave `journal` out")
    if is_uri:
        raise ConfigurationError("journal: must be the path of a file, not a URI: give the path alone, without `file:`")


def check_directory(path: str) -> None:
    """Check that the path is printable, is not that of a directory, and lies in a directory that exists.

    Raises:
        ConfigurationError: if the path is not printable, is that of a directory, or its directory does not exist.
    """
    if not path.isprintable() or path.isspace():
        raise ConfigurationError("journal: must be a printable path")
    # Not `Path.is_dir`, which raises an error if a parent directory cannot be searched.
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or ".") or leads_nowhere(path):  # noqa: PTH112, PTH120
        raise ConfigurationError("journal: must be the path of a file in a directory that exists")


def leads_nowhere(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a symbolic link into a directory that does not exist.

    The volume of this directory may not be mounted: the journal then exists, but cannot be read.
    """
    return os.path.islink(path) and not os.path.isdir(os.path.dirname(os.path.realpath(path)))  # noqa: PTH112, PTH114, PTH120
