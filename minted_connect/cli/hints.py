"""The command that finds out the outcome of a purchase, to be pasted into a shell in any directory."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

__all__ = ["reconcile_command"]

_UNSTABLE: Final = re.compile(r"/dev/|/proc/")
"""Beginning of a path that exists only for the process, such as that of `--password-file <(command)`."""
_HARMLESS: Final = frozenset(
    {
        "application_name",
        "connect_timeout",
        "dbname",
        "host",
        "hostaddr",
        "options",
        "passfile",
        "port",
        "service",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "target_session_attrs",
        "user",
    }
)
"""Parameters of a PostgreSQL URL that contain no secret."""


def reconcile_command(settings: Mapping[str, Any], common: Mapping[str, Any], intent_id: str) -> str:
    """Return the command that settles an intent with the server, account and journal of this command.

    The command contains no password. Paths are absolute, and words are quoted for the shell.

    Args:
        settings: Arguments of `AsyncMintedConnect`.
        common: The shared options as given.
        intent_id: Id of the intent.
    """
    profile = common.get("profile")
    # A profile that was named has the other settings; without one, they may come from variables of this shell.
    account = common if profile else settings
    password_file = common.get("password_file")
    options = {
        "--profile": profile,
        "--base-url": account.get("base_url"),
        "--username": account.get("username"),
        "--password-file": os.path.abspath(password_file) if password_file else None,  # noqa: PTH100 - keep links
        "--journal": _journal(settings.get("journal"), is_given=common.get("journal") is not None),
    }
    words = ["minted", "reconcile"]
    for name, value in options.items():
        if value and not (name == "--password-file" and _UNSTABLE.match(value)):
            words += [name, str(value)]
    words += ["--keyring"] if common.get("keyring") else []
    words += ["--intent", intent_id]
    if sys.platform == "win32":
        return subprocess.list2cmdline(words)
    file = os.environ.get("MINTED_CONNECT_CONFIG")
    is_relative = bool(file) and not os.path.isabs(file or "")  # noqa: PTH117
    variable = f"MINTED_CONNECT_CONFIG={shlex.quote(os.path.abspath(file or ''))} " if is_relative else ""  # noqa: PTH100
    return variable + shlex.join(words)


def _journal(location: Any, *, is_given: bool) -> str | None:
    """Return the absolute path or the URL of a journal; None if only the environment or the profile can name it."""
    if location is None:
        return None
    text = str(location)
    if "://" not in text:
        return os.path.abspath(text)  # noqa: PTH100 - keep links
    bare = _without_secrets(text)
    # A URL without its password may not connect, while the environment or the profile still has the whole URL.
    return bare if is_given or bare == text else None


def _without_secrets(url: str) -> str | None:
    """Return the URL of a database without passwords; None if a part of a password may be left in it."""
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    netloc, slash, path = address.partition("/")
    userinfo, _, hosts = netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if "@" in path + query or "#" in rest:
        return None  # a password with a character that should be escaped continues there
    found = query.split("&") if query else []
    kept = [parameter for parameter in found if unquote(parameter.partition("=")[0]) in _HARMLESS]
    if not colon and len(kept) == len(found):
        return url
    return f"{scheme}://{f'{user}@' if user else ''}{hosts}{slash}{path}{'?' if kept else ''}{'&'.join(kept)}"
