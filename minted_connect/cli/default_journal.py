"""The journal that purchases use if none is configured: one file per server in the state directory of the user.

Earlier versions kept it in the directory of the configuration file. A journal that exists there stays in use at its
place, because a running process may have it open. Two journals for one server would each allow the same reference once,
so both together are refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from minted_connect.cli.profiles import APP, check_absolute, config_directory, expand_home, server_url
from minted_connect.errors import ConfigurationError

__all__ = ["default_journal_path", "is_in_old_place"]

_NO_DIRECTORY: Final = "the user has no home directory: set HOME or XDG_STATE_HOME"


def default_journal_path(settings: Mapping[str, Any]) -> str:
    """Return the path of the default journal for purchases on this server. Creates its directory.

    Raises:
        ConfigurationError: if there is no directory, if it cannot be created or read, if a variable sets it to a
            relative path, or if both the state directory and the configuration directory have a journal.
    """
    name = _file_name(settings)
    folder, old_folder = _state_directory(), config_directory()
    old = None if old_folder is None else old_folder / name
    new = None if folder is None else folder / name
    if old is not None and old != new and _exists(old):
        if new is not None and _exists(new) and not _is_same(old, new):
            raise ConfigurationError(
                f"journal: there are two journals for this server, {new} and {old}, and a purchase must not be in only "
                "one of them by chance: settle both with minted reconcile --journal FILE, then name the one to use "
                "with --journal, MINTED_CONNECT_JOURNAL or journal in the profile"
            )
        return str(old)
    if folder is None or new is None:
        raise ConfigurationError(f"journal: {_NO_DIRECTORY}, or pass --journal")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"journal: {folder} cannot be created ({type(error).__name__}): pass --journal"
        ) from None
    return str(new)


def is_in_old_place(location: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a journal is the default one in the directory where earlier versions kept it."""
    folder, name = config_directory(), _file_name(settings)
    return folder is not None and folder != _state_directory() and location == str(folder / name)


def _file_name(settings: Mapping[str, Any]) -> str:
    parts = urlsplit(server_url(settings))
    return f"{parts.hostname}{f'-{parts.port}' if parts.port else ''}.journal.db"


def _state_directory() -> Path | None:
    """Return the directory of default journals; None without a home directory.

    Raises:
        ConfigurationError: if a variable sets it to a relative path: each working directory would have its own.
    """
    if sys.platform.startswith(("win", "darwin")):
        variable, directory = "HOME", Path(typer.get_app_dir(APP, roaming=False))
    elif base := os.environ.get("XDG_STATE_HOME"):  # empty counts as unset (XDG Base Directory Specification)
        variable, directory = "XDG_STATE_HOME", Path(base) / APP
    else:
        variable, directory = "HOME", expand_home("~/.local/state") / APP
    return check_absolute(variable, directory)


def _exists(file: Path) -> bool:
    """Return whether there is a file or a link. An error must not count as "no": that would begin a second journal."""
    try:
        file.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"journal: {file} cannot be read ({type(error).__name__}): pass --journal") from None
    return True


def _is_same(one: Path, other: Path) -> bool:
    """Return whether both names lead to one file, as after a move that left a symbolic link."""
    try:
        return os.path.realpath(one) == os.path.realpath(other)
    except OSError:
        return False
