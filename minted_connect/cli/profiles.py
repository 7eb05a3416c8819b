"""Server and credentials of a command, from options, the named profile, the environment, or the default profile.

A profile is a table in the configuration file, which is read under the rules of `cli.private_files`:

    default = "staging"

    [profiles.staging]
    username = "shop"
    password_file = "staging.password"    # or keyring = true, or password = "..."
    language = "en"
    journal = "orders.db"
    read_only = true    # refuse every command that changes something (`Options.read_only`)

Relative paths in a profile are relative to the configuration file. No option takes the password itself, because other
users of the machine can see the arguments of a process.
"""

from __future__ import annotations

import getpass
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import typer

from minted_connect.cli.private_files import read_private
from minted_connect.config import STAGING, Options
from minted_connect.core.extras import import_extra
from minted_connect.core.request import check_paths
from minted_connect.errors import ConfigurationError
from minted_connect.secret import Secret

__all__ = [
    "APP",
    "Profile",
    "check_absolute",
    "config_directory",
    "config_path",
    "expand_home",
    "load_settings",
    "profile_names",
    "server_url",
]

Profile = Mapping[str, Any]

_SERVICE: Final = "minted-connect"
"""Service name of passwords in the keyring; the user name is that of the account."""
APP: Final = "minted-connect"
"""Name of the directories of configuration and state."""
_NO_DIRECTORY: Final = "the user has no home directory: set HOME or XDG_CONFIG_HOME"
_KEYS: Final[Mapping[str, type]] = {
    "base_url": str,
    "client_id": str,
    "journal": str,
    "journal_account": str,
    "keyring": bool,
    "language": str,
    "password": str,
    "password_file": str,
    "paths": dict,
    "read_only": bool,
    "username": str,
}


def config_directory() -> Path | None:
    """Return the directory of the configuration file; None without a home directory.

    Raises:
        ConfigurationError: if a variable sets it to a relative path: each working directory would have its own.
    """
    if sys.platform.startswith(("win", "darwin", "cygwin")):
        variable, directory = "HOME", Path(typer.get_app_dir(APP))
    elif base := os.environ.get("XDG_CONFIG_HOME"):  # empty counts as unset (XDG Base Directory Specification)
        variable, directory = "XDG_CONFIG_HOME", Path(base) / APP
    else:
        variable, directory = "HOME", expand_home("~/.config") / APP
    return check_absolute(variable, directory)


def check_absolute(variable: str, directory: Path) -> Path | None:
    """Return a directory of the user; None if it begins with a `~` that cannot be expanded.

    Raises:
        ConfigurationError: if the variable sets it to a relative path: each working directory would have its own.
    """
    if directory.is_absolute():
        return directory
    if variable == "HOME" and str(directory).startswith("~"):
        return None
    raise ConfigurationError(f"{variable}: must be an absolute path")


def expand_home(path: str) -> Path:
    """Expand a leading `~`; return the path unchanged if the user has no home directory."""
    if os.environ.get("HOME") == "":
        return Path(path)
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the method of Path raises RuntimeError instead


def config_path() -> Path | None:
    """Return the path of the configuration file, which may not exist; None without a directory for it.

    Raises:
        ConfigurationError: if a variable sets the directory to a relative path.
    """
    if named := os.environ.get("MINTED_CONNECT_CONFIG"):
        return Path(named).absolute()
    directory = config_directory()
    return None if directory is None else directory / "config.toml"


def _read_profile(name: str | None) -> Profile:
    """Return the named profile, or the default profile. Without a file or a default, return an empty profile.

    Raises:
        ConfigurationError: if the profile does not exist, `read_private` refuses the file, or a key or value is wrong.
    """
    file = config_path()
    name = name or os.environ.get("MINTED_CONNECT_PROFILE") or None
    if file is None:
        if name is not None:
            raise ConfigurationError(f"profile: {_NO_DIRECTORY}, or MINTED_CONNECT_CONFIG to the configuration file")
        return {}
    if not _exists(file):
        if name is not None or os.environ.get("MINTED_CONNECT_CONFIG"):
            raise ConfigurationError(f"profile: the configuration file {file} does not exist")
        return {}
    document = _document(file)
    name = name or cast("str | None", document.get("default"))
    if name is None:
        return {}
    profiles: Any = document.get("profiles")
    profile = cast("dict[str, Any]", profiles).get(name) if isinstance(profiles, dict) else None
    if not isinstance(profile, dict):
        raise ConfigurationError(f"profile: {file} has no [profiles.{name}]")
    entries = cast("dict[str, Any]", profile)
    for key, value in entries.items():
        if key not in _KEYS:
            raise ConfigurationError(f"profile: {file}: {name}.{key} is not a known key; use {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise ConfigurationError(f"profile: {file}: {name}.{key} must be {_KEYS[key].__name__}")
    return entries


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError as error:  # a directory that this user must not search, such as the home directory of another user
        raise ConfigurationError(
            f"profile: {file} cannot be read ({type(error).__name__}): set HOME or XDG_CONFIG_HOME to a directory of "
            "this user"
        ) from None


def _document(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_private(file, "profile"))
    except tomllib.TOMLDecodeError as error:
        # The parser's message gives line and column, and no text of the file.
        raise ConfigurationError(f"profile: {file} is not TOML: {error}") from None


def profile_names() -> list[str]:
    """Return the names of the profiles, for completion in a shell; empty if the file cannot be read."""
    try:
        file = config_path()
        profiles: Any = _document(file).get("profiles") if file is not None else None
    except (ConfigurationError, OSError):
        return []
    return sorted(cast("dict[str, Any]", profiles)) if isinstance(profiles, dict) else []


def load_settings(given: Mapping[str, Any], *, account: bool = True) -> dict[str, Any]:
    """Return the arguments of `AsyncMintedConnect` for a command.

    Args:
        given: The options of the command.
        account: Whether to require user name and password.

    Raises:
        ConfigurationError: if a setting is missing or cannot be read.
    """
    profile = _read_profile(given.get("profile"))
    # With --profile, a variable left over in the shell must not decide which server and account a purchase uses.
    environment: Mapping[str, str] = {} if given.get("profile") else os.environ

    def first(name: str) -> Any:
        return given.get(name) or environment.get(f"MINTED_CONNECT_{name.upper()}") or profile.get(name) or None

    settings: dict[str, Any] = {
        name: value for name in ("base_url", "client_id", "language") if (value := first(name)) is not None
    }
    settings.setdefault("language", "en")  # the library's default is the vendor's, Turkish
    username = first("username")
    if username is not None:
        settings["username"] = username
    if account:
        if username is None:
            raise ConfigurationError(
                "username: give --username or --profile, or set MINTED_CONNECT_USERNAME; "
                "to try it without an account, run: minted sandbox"
            )
        settings["password"] = _password(given, profile, environment, username)
    journal_account = first("journal_account")
    if profile.get("paths") or journal_account or profile.get("read_only"):
        paths: Mapping[str, str] = check_paths(profile["paths"]) if profile.get("paths") else {}
        settings["options"] = Options(
            paths=paths, journal_account=journal_account, read_only=profile.get("read_only", False)
        )
    journal = given.get("journal") or environment.get("MINTED_CONNECT_JOURNAL")
    if journal is None and profile.get("journal"):
        journal = profile["journal"]
        journal = journal if "://" in journal else str(_beside_config(journal, "journal"))
    if journal is not None:
        settings["journal"] = journal
    return settings


def server_url(settings: Mapping[str, Any]) -> str:
    """Return the base URL in the settings, by default that of the vendor's staging server."""
    return str(settings.get("base_url", STAGING))


def _password(given: Mapping[str, Any], profile: Profile, environment: Mapping[str, str], username: str) -> Secret:
    if given.get("password_stdin"):
        return _first_line(sys.stdin.readline(), "standard input")
    if file := given.get("password_file"):
        return _from_file(Path(file))
    if value := environment.get("MINTED_CONNECT_PASSWORD"):
        return Secret(value)
    if value := profile.get("password"):
        return Secret(value)
    if file := profile.get("password_file"):
        return _from_file(_beside_config(file, "password_file"))
    if given.get("keyring") or profile.get("keyring"):
        return _from_keyring(username)
    if sys.stdin is not None and sys.stdin.isatty():
        return _first_line(getpass.getpass(f"Password of {username}: "), "the prompt")
    raise ConfigurationError(
        "password: give --password-file or --password-stdin, or set MINTED_CONNECT_PASSWORD: "
        "there is no terminal to prompt on"
    )


def _from_file(file: Path) -> Secret:
    return _first_line(read_private(file, "password"), str(file))


def _beside_config(path: str, key: str) -> Path:
    """Return the absolute path for a path of the profile, which may be relative to the configuration file."""
    file = config_path()
    expanded = expand_home(path)
    if str(expanded).startswith("~"):
        raise ConfigurationError(f"profile: {key}: the user has no home directory: set HOME, or give an absolute path")
    assert file is not None  # the profile was read from it
    return file.parent / expanded


def _from_keyring(username: str) -> Secret:
    keyring = import_extra("keyring", "keyring", "password: the keyring needs its extra")
    try:
        found = keyring.get_password(_SERVICE, username)
    except Exception as error:  # noqa: BLE001 - each backend raises its own errors
        raise ConfigurationError(f"password: the keyring cannot be used ({type(error).__name__})") from None
    if not found:
        raise ConfigurationError(f"password: the keyring has no password; run: keyring set {_SERVICE} {username}")
    return Secret(found)


def _first_line(text: str, source: str) -> Secret:
    line = text.removeprefix("\ufeff").partition("\n")[0].rstrip("\r")
    if not line:
        raise ConfigurationError(f"password: {source} gave no password")
    return Secret(line)
