"""Derives the account that the intents of a client belong to."""

from __future__ import annotations

import hashlib

from minted_connect.config import check_base_url
from minted_connect.core.api_client import ApiClient
from minted_connect.journal.protocol import JournalAccount

__all__ = ["account_of", "account_of_user"]


def account_of(api: ApiClient) -> JournalAccount:
    """Return the account that the intents of a client belong to."""
    name = api.settings.options.journal_account
    return JournalAccount(_hash(api.state.transport.base_url), api.account if name is None else _hash(name))


def account_of_user(base_url: str, username: str, name: str | None) -> JournalAccount:
    """Return the account that the intents of a client with these settings belong to.

    Args:
        base_url: Base URL of the server.
        username: The partner's user name.
        name: `Options.journal_account`; if given, the account is derived from it, not from server and user name.

    Raises:
        ConfigurationError: if the URL is invalid.
    """
    server = check_base_url(base_url)
    return JournalAccount(_hash(server), _hash(f"{server} {username}" if name is None else name))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
