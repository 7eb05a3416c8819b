"""Server and credentials of a command, from options, the named profile, the environment, or the default profile.

A profile is a table in the configuration file, which other users must not be able to read:

    default = "staging"

    [profiles.staging]
    username = "shop"
    password_file = "staging.password"    # or keyring = true, or password = "..."
    language = "en"
    journal = "orders.db"

Relative paths in a profile are relative to the configuration file. No option takes the password itself, because other
users of the machine can see the arguments of a process.
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

__all__ = ["Profile", "config_path", "default_journal_path", "load_settings", "read_profile", "server_url"]

Profile = Mapping[str, Any]

_SERVICE: Final = "minted-connect"
"""Service name of passwords in the keyring; the user name is that of the account."""
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
    "username": str,
}


def config_path() -> Path:
    """Return the path of the configuration file, which may not exist."""
    named = os.environ.get("MINTED_CONNECT_CONFIG")
    return Path(named) if named else Path(typer.get_app_dir("minted-connect")) / "config.toml"


def read_profile(name: str | None) -> Profile:
    """Return the named profile, or the default profile. Without a file or a default, return an empty profile.

    Raises:
        ConfigurationError: if the profile does not exist, the file can be read by others, or a key or value is invalid.
    """
    file = config_path()
    name = name or os.environ.get("MINTED_CONNECT_PROFILE") or None
    if not file.exists():
        if name is not None or "MINTED_CONNECT_CONFIG" in os.environ:
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


def _document(file: Path) -> dict[str, Any]:
    try:
        _check_private(file, "profile")
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        # The parser's message gives line and column, and no text of the file.
        raise ConfigurationError(f"profile: {file} is not TOML: {error}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"profile: {file} cannot be read ({type(error).__name__})") from None


def _check_private(file: Path, what: str) -> None:
    if os.name == "posix" and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{what}: other users can access {file}; run: chmod 600 {file}")


def load_settings(given: Mapping[str, Any], *, account: bool = True) -> dict[str, Any]:
    """Return the arguments of `AsyncMintedConnect` for a command.

    Args:
        given: The options of the command.
        account: Whether to require user name and password.

    Raises:
        ConfigurationError: if a setting is missing or cannot be read.
    """
    profile = read_profile(given.get("profile"))
    # With --profile, a variable left over in the shell must not decide which server and account a purchase uses.
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
                "to try it without an account, run: minted sandbox"
            )
        settings["password"] = _password(given, profile, environment, username)
    journal_account = first("journal_account")
    if profile.get("paths") or journal_account:
        paths: Mapping[str, str] = check_paths(profile["paths"]) if profile.get("paths") else {}
        settings["options"] = Options(paths=paths, journal_account=journal_account)
    journal = given.get("journal") or environment.get("MINTED_CONNECT_JOURNAL")
    if journal is None and profile.get("journal"):
        journal = profile["journal"]
        journal = journal if "://" in journal else str(config_path().parent / Path(journal).expanduser())
    if journal is not None:
        settings["journal"] = journal
    return settings


def server_url(settings: Mapping[str, Any]) -> str:
    """Return the base URL in the settings, by default that of the vendor's staging server."""
    return str(settings.get("base_url", STAGING))


def default_journal_path(settings: Mapping[str, Any]) -> str:
    """Return the path of the default journal for purchases on this server. Creates its directory."""
    parts = urlsplit(server_url(settings))
    folder = Path(typer.get_app_dir("minted-connect"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"journal: {folder} cannot be created ({type(error).__name__}): pass --journal"
        ) from None
    return str(folder / f"{parts.hostname}{f'-{parts.port}' if parts.port else ''}.journal.db")


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
        return _from_file(config_path().parent / Path(file).expanduser())
    if given.get("keyring") or profile.get("keyring"):
        return _from_keyring(username)
    if sys.stdin is not None and sys.stdin.isatty():
        return _first_line(getpass.getpass(f"Password of {username}: "), "the prompt")
    raise ConfigurationError(
        "password: give --password-file or --password-stdin, or set MINTED_CONNECT_PASSWORD: "
        "there is no terminal to prompt on"
    )


def _from_file(file: Path) -> Secret:
    try:
        _check_private(file, "password")
        return _first_line(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"password: {file} cannot be read ({type(error).__name__})") from None


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
    line = text.partition("\n")[0].rstrip("\r")
    if not line:
        raise ConfigurationError(f"password: {source} gave no password")
    return Secret(line)
