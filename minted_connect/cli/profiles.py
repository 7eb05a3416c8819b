"""Server and credentials of a command: options, a profile that was named, the environment, the default profile.

A profile is a table of the configuration file, which nobody else may read:

    default = "staging"

    [profiles.staging]
    username = "shop"
    password_file = "staging.password"    # or keyring = true, or password = "..."
    language = "en"
    journal = "orders.db"

Paths in it are relative to the file. A password is never taken from an argument, which everybody on the machine sees.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import typer

from minted_connect.config import STAGING, Options
from minted_connect.core.extras import import_extra
from minted_connect.core.request import check_paths
from minted_connect.errors import ConfigurationError
from minted_connect.secret import Secret

__all__ = ["Profile", "config_file", "default_journal", "read_profile", "server_of", "settings_of"]

Profile = Mapping[str, Any]

_SERVICE: Final = "minted-connect"
"""Under which name a keyring keeps passwords; the user name is that of the account."""
_KNOWN: Final[Mapping[str, type]] = {
    "base_url": str,
    "client_id": str,
    "journal": str,
    "journal_account": str,
    "keyring": bool,
    "language": str,
    "password": str,
    "password_file": str,
    "paths": dict,
    "username": str,
}


def config_file() -> Path:
    """Return where the configuration file is, or would be."""
    named = os.environ.get("MINTED_CONNECT_CONFIG")
    return Path(named) if named else Path(typer.get_app_dir("minted-connect")) / "config.toml"


def read_profile(name: str | None) -> Profile:
    """Return the named profile; without a name the default one, or nothing if there is no file.

    Raises:
        ConfigurationError: there is no such profile, others may read the file, or it holds what it should not.
    """
    file = config_file()
    name = name or os.environ.get("MINTED_CONNECT_PROFILE") or None
    if not file.exists():
        if name is not None or "MINTED_CONNECT_CONFIG" in os.environ:
            raise ConfigurationError(f"profile: there is no configuration file {file}")
        return {}
    document = _document(file)
    name = name or cast("str | None", document.get("default"))
    if name is None:
        return {}
    profiles: Any = document.get("profiles")
    named = cast("dict[str, Any]", profiles) if isinstance(profiles, dict) else {}
    profile = named.get(name)
    if not isinstance(profile, dict):
        raise ConfigurationError(f"profile: {file} has no [profiles.{name}]")
    known = cast("dict[str, Any]", profile)
    for key, value in known.items():
        if key not in _KNOWN:
            raise ConfigurationError(f"profile: {file}: {name}.{key} is not known; there are {', '.join(_KNOWN)}")
        if not isinstance(value, _KNOWN[key]):
            raise ConfigurationError(f"profile: {file}: {name}.{key} must be {_KNOWN[key].__name__}")
    return known


def _document(file: Path) -> dict[str, Any]:
    try:
        _check_private(file, "profile")
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        # Its text quotes the file at most by line and column.
        raise ConfigurationError(f"profile: {file} is not TOML: {error}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"profile: {file} cannot be read ({type(error).__name__})") from None


def _check_private(file: Path, what: str) -> None:
    if os.name == "posix" and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{what}: others may use {file}; do: chmod 600 {file}")


def settings_of(given: Mapping[str, Any], *, account: bool = True) -> dict[str, Any]:
    """Return the arguments of a client from the options of a command, the environment and the profile.

    Args:
        given: The options.
        account: Whether user name and password are wanted, too.

    Raises:
        ConfigurationError: something is missing, or cannot be read.
    """
    profile = read_profile(given.get("profile"))
    # Whoever names a profile must not buy on the server, or the account, that a variable of their shell still names.
    environment: Mapping[str, str] = {} if given.get("profile") else os.environ

    def first(name: str) -> Any:
        return given.get(name) or environment.get(f"MINTED_CONNECT_{name.upper()}") or profile.get(name) or None

    settings: dict[str, Any] = {
        name: value for name in ("base_url", "client_id", "language") if (value := first(name)) is not None
    }
    username = first("username")
    if username is not None:
        settings["username"] = username
    if account:
        if username is None:
            raise ConfigurationError(
                "username: give --username or --profile, or set MINTED_CONNECT_USERNAME; "
                "without an account, try it with: minted sandbox"
            )
        settings["password"] = _password(given, profile, environment, username)
    journal_account = first("journal_account")
    if profile.get("paths") or journal_account:
        paths: Mapping[str, str] = check_paths(profile["paths"]) if profile.get("paths") else {}
        settings["options"] = Options(paths=paths, journal_account=journal_account)
    journal = given.get("journal") or environment.get("MINTED_CONNECT_JOURNAL")
    if journal is None and profile.get("journal"):
        journal = profile["journal"]
        journal = journal if "://" in journal else str(config_file().parent / Path(journal).expanduser())
    if journal is not None:
        settings["journal"] = journal
    return settings


def server_of(settings: Mapping[str, Any]) -> str:
    """Return the URL of the server that settings name: the vendor's staging if they name none."""
    return str(settings.get("base_url", STAGING))


def default_journal(settings: Mapping[str, Any]) -> str:
    """Return the journal that purchases from the command line are written into: one for each server."""
    parts = urlsplit(server_of(settings))
    folder = Path(typer.get_app_dir("minted-connect"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"journal: {folder} cannot be made ({type(error).__name__}): give --journal") from None
    return str(folder / f"{parts.hostname}{f'-{parts.port}' if parts.port else ''}.journal.db")


def _password(given: Mapping[str, Any], profile: Profile, environment: Mapping[str, str], username: str) -> Secret:
    if given.get("password_stdin"):
        return _not_empty(sys.stdin.readline(), "standard input")
    if file := given.get("password_file"):
        return _from_file(Path(file))
    if value := environment.get("MINTED_CONNECT_PASSWORD"):
        return Secret(value)
    if value := profile.get("password"):
        return Secret(value)
    if file := profile.get("password_file"):
        return _from_file(config_file().parent / Path(file).expanduser())
    if given.get("keyring") or profile.get("keyring"):
        return _from_keyring(username)
    if sys.stdin is not None and sys.stdin.isatty():
        return _not_empty(getpass.getpass(f"Password of {username}: "), "the prompt")
    raise ConfigurationError(
        "password: give --password-file or --password-stdin, or set MINTED_CONNECT_PASSWORD: "
        "there is no terminal to ask on"
    )


def _from_file(file: Path) -> Secret:
    try:
        _check_private(file, "password")
        return _not_empty(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"password: {file} cannot be read ({type(error).__name__})") from None


def _from_keyring(username: str) -> Secret:
    keyring = import_extra("keyring", "keyring", "password: a keyring needs its extra")
    try:
        found = keyring.get_password(_SERVICE, username)
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own
        raise ConfigurationError(f"password: the keyring cannot be used ({type(error).__name__})") from None
    if not found:
        raise ConfigurationError(f"password: the keyring has none; do: keyring set {_SERVICE} {username}")
    return Secret(found)


def _not_empty(text: str, where: str) -> Secret:
    line = text.partition("\n")[0].rstrip("\r")
    if not line:
        raise ConfigurationError(f"password: {where} gave none")
    return Secret(line)
