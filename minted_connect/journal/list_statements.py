"""The SQL statements that list and forget intents, with their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from minted_connect.journal.listing import IntentFilter
from minted_connect.journal.protocol import CLOSED
from minted_connect.journal.rows import COLUMNS, dump_time
from minted_connect.models import IntentState

__all__ = ["forget_params", "list_params", "list_statements"]

_STATES: Final = tuple(f"state_{number}" for number in range(len(IntentState)))
"""Parameters for the states; a list of states cannot be bound in all databases."""

_REDUCED: Final = (
    "price_token = '', paid_total = '0', clock_offset = 0, known_orders = '[]', progress = NULL, finished = (1 = 1), "
    "fenced_at = NULL, send_before = NULL, refusal = NULL, decided_at = NULL, corrections = NULL, forgotten_at = :at"
)


def list_statements(*, table: str, sequence: str, journal: str, claim_table: str) -> Mapping[str, str]:
    """Return statements of `Statements`; the arguments are those of its `build`."""
    columns, states = ", ".join(COLUMNS), ", ".join(f":{name}" for name in _STATES)
    closed = ", ".join(f"'{state}'" for state in sorted(CLOSED))
    # The casts are for PostgreSQL, which cannot infer the type of a parameter that is only compared with NULL.
    is_selected = " AND ".join(
        f"(CAST({value} AS TEXT) IS NULL OR {condition})"
        for value, condition in (
            (":account", "account = :account OR account IS NULL"),
            (":state_0", f"state IN ({states})"),
            (":customer", "external_customer_id IN (:customer, :customer_hash)"),
            (":reference", "reference IN (:reference, :reference_hash)"),
            (":since", "created_at >= :since"),
            (":until", "created_at < :until"),
        )
    )
    is_old = f"(account = :account OR account IS NULL) AND created_at < :before AND state IN ({closed})"
    # An order of a basket that a reference used, too, would otherwise count as the order of the reference.
    is_removable = (
        f"{is_old} AND reference IS NULL AND (imported_at IS NULL OR assigned_at IS NOT NULL) "  # noqa: S608
        f"AND cart_token NOT IN (SELECT cart_token FROM {table} WHERE reference IS NOT NULL) "
        f"AND cart_token NOT IN (SELECT cart_token FROM {claim_table} WHERE cart_token IS NOT NULL)"
    )
    is_reducible = (
        f"{is_old} AND forgotten_at IS NULL AND EXISTS (SELECT 1 FROM {table} AS other "  # noqa: S608
        f"WHERE other.account = {table}.account AND other.reference = {table}.reference "
        f"AND other.state = '{IntentState.CONFIRMED}')"
    )
    # Nothing interpolated here is input: names and states are constants, and values are bound.
    return {
        "find_intents": f"SELECT {columns}, {sequence} FROM {table} WHERE {sequence} > :after AND {is_selected} "  # noqa: S608
        f"ORDER BY {sequence} LIMIT :limit",
        "count_forgettable": f"SELECT count(*) FROM {table} WHERE ({is_removable}) OR ({is_reducible})",  # noqa: S608
        "forget": f"DELETE FROM {table} WHERE {is_removable}",  # noqa: S608
        "reduce": f"UPDATE {table} SET {_REDUCED} WHERE {is_reducible}",  # noqa: S608
        "find_forgotten": f"SELECT forgotten_before FROM {journal}",  # noqa: S608
        "record_forgotten": f"UPDATE {journal} SET forgotten_before = :before "  # noqa: S608
        "WHERE forgotten_before IS NULL OR forgotten_before < :before",
    }


def list_params(filters: IntentFilter, after: int, limit: int) -> Mapping[str, Any]:
    """Return the parameters of `find_intents`, which reads one row more than `limit`: whether another page follows."""
    states: list[str | None] = [*map(str, sorted(filters.states))] if filters.states is not None else [None]
    states += [states[0]] * (len(_STATES) - len(states))
    return {
        "account": filters.account,
        "customer": filters.external_customer_id,
        "reference": filters.reference,
        "since": None if filters.since is None else dump_time(filters.since),
        "until": None if filters.until is None else dump_time(filters.until),
        "after": after,
        "limit": limit + 1,
        **dict(zip(_STATES, states, strict=True)),
    }


def forget_params(before: datetime, at: datetime, account: str) -> Mapping[str, Any]:
    """Return the parameters of the statements that forget intents."""
    return {"before": dump_time(before), "at": at.isoformat(), "account": account}
