"""The SQL statements for intents, with their parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Self

import attrs

from minted_connect.journal.claims import Claim
from minted_connect.journal.erasure_statements import erasure_statements
from minted_connect.journal.list_statements import list_statements
from minted_connect.journal.protocol import CLOSED, INACTIVE, JournalAccount, ReferenceKey
from minted_connect.journal.restore_statements import restore_statements
from minted_connect.journal.rows import COLUMNS, dump_order_id, dump_progress, to_row
from minted_connect.journal.sql_claims import ClaimStatements
from minted_connect.models import Intent, IntentState, OrderProgress

__all__ = [
    "AWAITS_COMPLETION",
    "IS_ACTIVE",
    "IS_OPEN",
    "PURCHASE_COLUMNS",
    "Statements",
    "basket_params",
    "insert_params",
    "reference_params",
    "settle_params",
    "state_literals",
]

_CONFIRMED: Final = f"'{IntentState.CONFIRMED}'"


def state_literals(states: Collection[IntentState]) -> str:
    """Return states as a comma-separated list of SQL string literals."""
    return ", ".join(f"'{state}'" for state in sorted(states))


# Negated lists, so that a state that this version does not know counts as open.
IS_OPEN: Final = f"state NOT IN ({state_literals(CLOSED)})"
"""Condition: the outcome is not known."""

IS_ACTIVE: Final = f"state NOT IN ({state_literals(INACTIVE)})"
"""Condition: no other completion of the same basket is allowed."""

AWAITS_COMPLETION: Final = f"state = {_CONFIRMED} AND NOT finished"
"""Condition: the order is not known to be final. A partial index covers exactly these rows."""


PURCHASE_COLUMNS: Final = ("id", "external_customer_id", "paid_total", "currency_code", "created_at", "progress")
"""Columns of `Statements.find_purchases`."""


@attrs.frozen
class Statements:
    """The SQL statements of a journal, with the placeholders of its database driver."""

    claims: ClaimStatements
    insert: str
    find_active: str
    settle: str
    save_progress: str
    fence: str
    record_refusal: str
    adopt: str
    get: str
    exists: str
    pending: str
    awaiting_completion: str
    find_by_reference: str
    other_references: str
    same_references: str
    record_decision: str
    find_intents: str
    count_forgettable: str
    forget: str
    reduce: str
    record_forgotten: str
    find_forgotten: str
    find_purchases: str
    find_mark: str
    mark: str
    end_import: str
    find_other_accounts: str
    find_imported: str
    find_of_customer: str
    assign: str
    find_erasable: str
    erase: str

    @property
    def find_claims(self) -> str:
        """The query for claims."""
        return self.claims.find

    @classmethod
    def build(
        cls,
        *,
        table: str,
        sequence: str,
        journal: str,
        claim_table: str,
        claims: ClaimStatements,
        placeholder: str = r":\1",
    ) -> Self:
        """Build the statements for one database.

        Args:
            table: Name of the table, or a subquery.
            sequence: Column that increases with every inserted row.
            journal: Name of the table with one row for the journal.
            claim_table: Name of the table of claims.
            claims: The statements for claims.
            placeholder: Replaces `:name`; a template of `re.sub`.
        """
        columns = ", ".join(COLUMNS)
        is_basket = "external_customer_id IN (:customer, :customer_hash) AND cart_token = :token"
        is_own = "(account = :account OR account IS NULL)"
        is_other = "server = :server AND account NOT IN (:account, :unnamed)"
        # Nothing interpolated here is input: names and states are constants, and values are bound.
        statements = {
            "insert": f"INSERT INTO {table} ({columns}, claim_generation) "  # noqa: S608
            f"VALUES (:{', :'.join(COLUMNS)}, :claim_generation)",
            "find_active": f"SELECT {columns} FROM {table} WHERE {is_basket} AND {is_own} AND {IS_ACTIVE} "  # noqa: S608
            f"ORDER BY state = {_CONFIRMED} DESC LIMIT 1",
            "settle": f"UPDATE {table} SET state = :state, order_id = coalesce(:order_id, order_id), "  # noqa: S608
            "progress = CASE WHEN erased_at IS NULL THEN coalesce(:progress, progress) ELSE progress END, "
            "finished = CASE WHEN erased_at IS NULL THEN coalesce(:finished, finished) ELSE finished END, "
            "server = CASE WHEN account IS NULL THEN coalesce(:server, server) ELSE server END, "
            f"account = coalesce(account, :account) WHERE id = :id AND ({IS_OPEN} OR :state = {_CONFIRMED})",
            "save_progress": f"UPDATE {table} SET progress = :progress, finished = :finished "  # noqa: S608
            f"WHERE {is_basket} AND {is_own} AND state = {_CONFIRMED} AND forgotten_at IS NULL AND erased_at IS NULL",
            "fence": f"UPDATE {table} SET fenced_at = coalesce(fenced_at, :at) WHERE id = :id AND {IS_OPEN}",  # noqa: S608
            "record_refusal": f"UPDATE {table} SET refusal = :refusal, state = '{IntentState.UNKNOWN}' "  # noqa: S608
            f"WHERE id = :id AND {IS_OPEN}",
            "adopt": f"UPDATE {table} SET server = :server, account = :account WHERE id = :id",  # noqa: S608
            "get": f"SELECT {columns} FROM {table} WHERE id = :id",  # noqa: S608
            "exists": f"SELECT 1 FROM {table} WHERE id = :id UNION ALL "  # noqa: S608
            f"SELECT 1 FROM {journal} WHERE forgotten_before > :created_at",
            "pending": f"SELECT {columns} FROM {table} WHERE {IS_OPEN} ORDER BY {sequence}",  # noqa: S608
            "awaiting_completion": f"SELECT {columns} FROM {table} WHERE {AWAITS_COMPLETION} "  # noqa: S608
            f"ORDER BY {sequence}",
            "find_by_reference": f"SELECT {columns} FROM {table} WHERE account IN (:account, :unnamed) "  # noqa: S608
            f"AND reference IN (:reference, :reference_hash) ORDER BY {sequence}",
            "other_references": f"SELECT id FROM {table} WHERE reference IS NOT NULL AND {is_other} LIMIT 5",  # noqa: S608
            "same_references": f"SELECT id FROM {table} WHERE reference IN (:reference, :reference_hash) "  # noqa: S608
            f"AND {is_other} LIMIT 5",
            "find_purchases": f"SELECT {', '.join(PURCHASE_COLUMNS)} FROM {table} WHERE kind = :buy "  # noqa: S608
            f"AND (account IS NULL OR account IN (:account, :unnamed)) AND {IS_ACTIVE} "
            "AND created_at >= :since AND created_at < :until",
            "record_decision": f"UPDATE {table} SET decided_at = :at WHERE id = :id",  # noqa: S608
            **erasure_statements(table=table),
            **restore_statements(table=table, journal=journal, claim_table=claim_table),
            **list_statements(table=table, sequence=sequence, journal=journal, claim_table=claim_table),
        }
        return cls(claims, **{name: re.sub(r":(\w+)", placeholder, text) for name, text in statements.items()})


def insert_params(intent: Intent, claim: Claim | None) -> Mapping[str, Any]:
    """Return the parameters of `Statements.insert`."""
    values = dict(zip(COLUMNS, to_row(intent), strict=True))
    return {**values, "claim_generation": None if claim is None else claim.generation}


def settle_params(
    intent_id: str,
    state: IntentState,
    order_id: int | None = None,
    progress: OrderProgress | None = None,
    owner: JournalAccount | None = None,
) -> Mapping[str, Any]:
    """Return the parameters of `Statements.settle` and `ClaimStatements.settle`."""
    return {
        "id": intent_id,
        "seconds": 0.0,
        "state": str(state),
        "order_id": dump_order_id(order_id),
        "progress": dump_progress(progress),
        "finished": None if progress is None else progress.is_final,
        "server": owner.server if owner else None,
        "account": owner.account if owner else None,
    }


def basket_params(external_customer_id: str, cart_token: str, account: str | None) -> Mapping[str, Any]:
    """Return the parameters that select the intents of a basket."""
    return {"customer": external_customer_id, "token": cart_token, "account": account}


def reference_params(key: ReferenceKey) -> Mapping[str, Any]:
    """Return the parameters that select the intents with a reference, own and others'."""
    return {
        "reference": key.reference,
        "server": key.owner.server,
        "account": key.owner.account,
        "unnamed": key.unnamed_account,
    }
