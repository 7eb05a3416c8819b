"""Settings of a client from environment variables.

Other modules that read variables: `core.logs` (`MINTED_LOG`), `cli.profiles`, `commands.reconcile` (the journal) and
`sandbox.__main__` (the password).
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from minted_connect.config import Options
from minted_connect.errors import ConfigurationError
from minted_connect.secret import as_secret
from minted_connect.validation import check_type

__all__ = ["options_from_env", "settings_from_env"]


def options_from_env(options: Options | None) -> Options | None:
    """Set `journal_account` from `MINTED_CONNECT_JOURNAL_ACCOUNT`, unless `options` already set it.

    Raises:
        ConfigurationError: if `options` is not `Options`, or the name of the account is not valid.
    """
    name = os.environ.get("MINTED_CONNECT_JOURNAL_ACCOUNT")
    check_type("options", options, Options, optional=True)
    if not name or (options is not None and options.journal_account is not None):
        return options
    return attrs.evolve(options or Options(), journal_account=name)


def settings_from_env(**given: Any) -> dict[str, Any]:
    """Return the constructor arguments that environment variables set. Empty variables count as unset.

    Args:
        given: Arguments of the caller: those that are not None take precedence over variables.

    Raises:
        ConfigurationError: if user name or password is not set.
    """
    settings: dict[str, Any] = {}
    for name in ("username", "password", "base_url", "journal"):
        variable = f"MINTED_CONNECT_{name.upper()}"
        value = os.environ.get(variable)
        if value:
            # Tracebacks may show local variables.
            settings[name] = as_secret(value) if name == "password" else value
        elif name in {"username", "password"}:
            raise ConfigurationError(f"{variable}: is not set")
    return settings | {name: value for name, value in given.items() if value is not None}
