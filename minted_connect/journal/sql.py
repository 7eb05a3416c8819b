"""What a journal says to its database: the rules of the `Journal` protocol in SQL, written once for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from minted_connect.journal.protocol import CLOSED, FREE, JournalAccount
from minted_connect.journal.rows import COLUMNS, number_of, progress_text, quoted, refusal_text, to_row
from minted_connect.models import Intent, IntentState, OrderProgress, Refusal

__all__ = ["HOLDING", "OPEN", "UNFINISHED", "Statements", "insertion", "refusing", "settlement", "sighting"]

_CONFIRMED: Final = f"'{IntentState.CONFIRMED}'"

# By what they are not, so that a state that this library does not know counts as open.
OPEN: Final = f"state NOT IN ({quoted(CLOSED)})"
"""Condition on the records whose outcome is not known."""

HOLDING: Final = f"state NOT IN ({quoted(FREE)})"
"""Condition on the records that keep every other completion of the same basket out."""

UNFINISHED: Final = f"state = {_CONFIRMED} AND NOT finished"
"""Which records `unfinished` returns; an index is for them alone."""


@attrs.frozen
class Statements:
    """The statements of one kind of database."""

    insert: str
    holder: str
    settle: str
    note: str
    fence: str
    refuse: str
    adopt: str
    get: str
    exists: str
    pending: str
    unfinished: str

    @classmethod
    def of(cls, *, table: str, age: str, mark: str = r":\1") -> Self:
        """Write the statements.

        Args:
            table: Where the intents are.
            age: The column that grows with every intent.
            mark: What this database writes for `:name`, the place of a value (as for `re.sub`).
        """
        names = ", ".join(COLUMNS)
        basket = "external_customer_id = :customer AND cart_token = :token"
        mine = "(account = :account OR account IS NULL)"
        # No word of these is input: names and states are our own, values have marks.
        written = {
            "insert": f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(COLUMNS)})",  # noqa: S608
            "holder": f"SELECT {names} FROM {table} WHERE {basket} AND {mine} AND {HOLDING} "  # noqa: S608
            f"ORDER BY state = {_CONFIRMED} DESC LIMIT 1",
            "settle": f"UPDATE {table} SET state = :state, order_id = coalesce(:order_id, order_id), "  # noqa: S608
            "progress = coalesce(:progress, progress), finished = coalesce(:finished, finished), "
            "server = CASE WHEN account IS NULL THEN coalesce(:server, server) ELSE server END, "
            f"account = coalesce(account, :account) WHERE id = :id AND ({OPEN} OR :state = {_CONFIRMED})",
            "note": f"UPDATE {table} SET progress = :progress, finished = :finished "  # noqa: S608
            f"WHERE {basket} AND {mine} AND state = {_CONFIRMED}",
            "fence": f"UPDATE {table} SET fenced_at = coalesce(fenced_at, :at) WHERE id = :id AND {OPEN}",  # noqa: S608
            "refuse": f"UPDATE {table} SET refusal = :refusal, state = '{IntentState.UNKNOWN}' "  # noqa: S608
            f"WHERE id = :id AND {OPEN}",
            "adopt": f"UPDATE {table} SET server = :server, account = :account WHERE id = :id",  # noqa: S608
            "get": f"SELECT {names} FROM {table} WHERE id = :id",  # noqa: S608
            "exists": f"SELECT 1 FROM {table} WHERE id = :id",  # noqa: S608
            "pending": f"SELECT {names} FROM {table} WHERE {OPEN} ORDER BY {age}",  # noqa: S608
            "unfinished": f"SELECT {names} FROM {table} WHERE {UNFINISHED} ORDER BY {age}",  # noqa: S608
        }
        return cls(**{name: re.sub(r":(\w+)", mark, text) for name, text in written.items()})


def insertion(intent: Intent) -> Mapping[str, Any]:
    """Return the values of `insert`."""
    return dict(zip(COLUMNS, to_row(intent), strict=True))


def settlement(
    intent_id: str,
    state: IntentState,
    order_id: int | None = None,
    progress: OrderProgress | None = None,
    owner: JournalAccount | None = None,
) -> Mapping[str, Any]:
    """Return the values of `settle`."""
    return {
        "id": intent_id,
        "state": str(state),
        "order_id": number_of(order_id),
        "progress": progress_text(progress),
        "finished": None if progress is None else progress.is_final,
        "server": owner.server if owner else None,
        "account": owner.account if owner else None,
    }


def refusing(intent_id: str, refusal: Refusal) -> Mapping[str, Any]:
    """Return the values of `refuse`."""
    return {"id": intent_id, "refusal": refusal_text(refusal)}


def sighting(
    external_customer_id: str, cart_token: str, progress: OrderProgress, account: str | None
) -> Mapping[str, Any]:
    """Return the values of `note`."""
    return {
        "customer": external_customer_id,
        "token": cart_token,
        "account": account,
        "progress": progress_text(progress),
        "finished": progress.is_final,
    }
