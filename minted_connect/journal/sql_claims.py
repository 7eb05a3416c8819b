"""The part of claims that all SQL journals share: their statements, parameters and rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

import attrs

from minted_connect.journal.claims import Claim, StoredClaim
from minted_connect.journal.protocol import JournalAccount, ReferenceKey
from minted_connect.models import Intent, OrderKind

__all__ = [
    "READ_COLUMNS",
    "ClaimStatements",
    "claim_from_row",
    "claim_params",
    "customer_params",
    "key_params",
]

_COLUMNS: Final = (
    "account",
    "reference",
    "external_customer_id",
    "kind",
    "terms",
    "generation",
    "owner",
    "saw_basket",
    "cart_token",
    "created_at",
    "grace",
)
"""The columns that `claim_params` gives values for."""

READ_COLUMNS: Final = (*_COLUMNS, "holds_customer", "expires_in")
"""The columns of a row for `claim_from_row`."""

_STRINGS: Final = ("account", "reference", "external_customer_id", "terms", "owner")


@attrs.frozen
class ClaimStatements:
    """The SQL statements for claims, with the placeholders of a database driver."""

    find: str
    """The claims of a reference, and those that hold a customer and kind."""
    end_holds: str
    """End the hold of each claim that `find` returns on its customer."""
    store: str
    attach_intent: str
    renew: str
    release: str
    settle: str
    """End the claim of an intent that was settled."""
    of_customer: str
    """All claims for a customer."""
    erase: str
    """Replace the names in a claim."""
    forget_erased: str
    """Remove a claim of a reference that was erased: `store` replaces it."""

    @classmethod
    def build(
        cls, *, table: str, expires_in: str, expiry: Mapping[str, str] | None = None, placeholder: str = r":\1"
    ) -> Self:
        """Build the statements for one database.

        Args:
            table: Name of the table, or a subquery.
            expires_in: Expression for the seconds until the claim of a row expires.
            expiry: Columns that store the expiry, with an expression for the time `:seconds` from now.
            placeholder: Replaces `:name`; a template of `re.sub`.
        """
        expiry = expiry or {}
        inserted = {**dict.fromkeys(_COLUMNS), "holds_customer": "TRUE", **expiry}
        values = ", ".join(f":{name}" if value is None else value for name, value in inserted.items())
        replaced = ", ".join(f"{name} = excluded.{name}" for name in inserted if name not in {"account", "reference"})
        expires = ", ".join(f"{name} = {value}" for name, value in expiry.items())
        is_selected = (
            "account IN (:account, :unnamed) AND (reference IN (:reference, :reference_hash) OR (holds_customer "
            "AND external_customer_id IN (:external_customer_id, :external_customer_id_hash) AND kind = :kind))"
        )
        is_own = "account = :account AND reference = :reference AND owner = :owner AND generation = :generation"
        # Nothing interpolated here is input: names and expressions are constants, and values are bound.
        statements = {
            "find": f"SELECT {', '.join((*_COLUMNS, 'holds_customer'))}, {expires_in} AS expires_in FROM {table} "  # noqa: S608
            f"WHERE {is_selected}",
            "end_holds": f"UPDATE {table} SET holds_customer = FALSE WHERE {is_selected}",  # noqa: S608
            "store": f"INSERT INTO {table} ({', '.join(inserted)}) VALUES ({values}) "  # noqa: S608
            f"ON CONFLICT (account, reference) DO UPDATE SET {replaced}, intent_id = NULL",
            "attach_intent": f"UPDATE {table} SET cart_token = :cart_token, intent_id = :intent_id WHERE {is_own}",  # noqa: S608
            "renew": f"UPDATE {table} SET {expires}, grace = :grace, saw_basket = :saw_basket, "  # noqa: S608
            f"cart_token = :cart_token WHERE {is_own}",
            "release": f"UPDATE {table} SET {expires}, grace = :grace, cart_token = :cart_token, "  # noqa: S608
            f"holds_customer = holds_customer AND :has_grace WHERE {is_own}",
            "settle": f"UPDATE {table} SET {expires}, grace = 0, holds_customer = FALSE, intent_id = NULL "  # noqa: S608
            "WHERE intent_id = :id",
            "of_customer": f"SELECT {', '.join((*_COLUMNS, 'holds_customer'))}, {expires_in} AS expires_in "  # noqa: S608
            f"FROM {table} WHERE external_customer_id = :external_customer_id AND account IN (:account, :unnamed)",
            "erase": f"UPDATE {table} SET reference = :new_reference, external_customer_id = :erased, terms = :terms, "  # noqa: S608
            "holds_customer = FALSE WHERE account = :account AND reference = :reference",
            "forget_erased": f"DELETE FROM {table} WHERE account = :account AND reference = :reference_hash",  # noqa: S608
        }
        return cls(**{name: re.sub(r":(\w+)", placeholder, text) for name, text in statements.items()})


def claim_params(claim: Claim) -> dict[str, Any]:
    """Return the parameters of all statements for a claim, except what `attach_intent` and `release` have besides."""
    return {
        **key_params(claim.key),
        "external_customer_id": claim.external_customer_id,
        "kind": str(claim.kind),
        "terms": claim.terms,
        "generation": claim.generation,
        "owner": claim.owner,
        "saw_basket": claim.saw_basket,
        "cart_token": claim.cart_token,
        "created_at": claim.created_at.isoformat(),
        "seconds": float(claim.seconds),
        "grace": float(claim.grace),
    }


def key_params(key: ReferenceKey) -> dict[str, Any]:
    """Return the parameters of `ClaimStatements.find` for the claims of a reference."""
    return {
        "account": key.owner.account,
        "unnamed": key.unnamed_account,
        "reference": key.reference,
        "external_customer_id": None,
        "kind": None,
    }


def customer_params(intent: Intent, key: ReferenceKey | None) -> dict[str, Any]:
    """Return the parameters of `ClaimStatements.find` for the claims that hold the customer and kind of an intent."""
    return {
        "account": intent.account,
        "unnamed": intent.account if key is None else key.unnamed_account,
        "reference": None,
        "external_customer_id": intent.external_customer_id,
        "kind": str(intent.kind),
    }


def claim_from_row(row: Sequence[Any], server: str, unnamed_account: str) -> StoredClaim:
    """Convert a row with `READ_COLUMNS` to a claim, with the seconds that are left as its `seconds`.

    Args:
        row: The row.
        server: Server of the account.
        unnamed_account: As in `ReferenceKey`.

    Raises:
        ValueError, TypeError: if this library did not write the row (`ROW_ERRORS`).
    """
    values: dict[str, Any] = dict(zip(READ_COLUMNS, row, strict=True))
    for name in _STRINGS:
        if not isinstance(values[name], str):
            raise TypeError(name)
    if not isinstance(values["cart_token"], str | None):
        raise TypeError("cart_token")
    for name in ("generation", "saw_basket", "holds_customer"):
        if not isinstance(values[name], int):
            raise TypeError(name)
    # SQLite stores the time as text.
    created_at = values["created_at"]
    if not isinstance(created_at, datetime):
        created_at = datetime.fromisoformat(created_at)
    if created_at.tzinfo is None:
        raise ValueError("created_at")
    expires_in, grace = float(values["expires_in"]), float(values["grace"])
    claim = Claim(
        key=ReferenceKey(values["reference"], JournalAccount(server, values["account"]), unnamed_account),
        external_customer_id=values["external_customer_id"],
        kind=OrderKind(values["kind"]),
        terms=values["terms"],
        owner=values["owner"],
        seconds=max(expires_in, 0.0),
        grace=grace,
        saw_basket=bool(values["saw_basket"]),
        cart_token=values["cart_token"],
        created_at=created_at.astimezone(UTC),
        generation=values["generation"],
    )
    return StoredClaim(claim, bool(values["holds_customer"]), expires_in, expires_in + grace)
