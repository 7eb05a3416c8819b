"""The account that the intents of a client belong to."""

from __future__ import annotations

import hashlib

from minted_connect.completion.journal import JournalAccount
from minted_connect.core.caller import Caller

__all__ = ["account_of", "journal_account"]


def journal_account(base_url: str, account: str, name: str | None) -> JournalAccount:
    """Return the hashes of a server and of an account.

    Args:
        base_url: The server, as `check_base_url` returns it.
        account: Hash of server and user name (`Transport.account`).
        name: `Options.journal_account`; it takes the place of server and user name.
    """
    return JournalAccount(_hash(base_url), account if name is None else _hash(name))


def account_of(caller: Caller) -> JournalAccount:
    """Return the account that a caller's intents belong to."""
    name = caller.settings.options.journal_account
    return journal_account(caller.shared.transport.base_url, caller.account, name)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
