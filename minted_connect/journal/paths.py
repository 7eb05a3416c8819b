"""Rejects journal paths that SQLite would take as a database in memory or a URI."""

from __future__ import annotations

from minted_connect.errors import ConfigurationError

__all__ = ["check_path"]


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
