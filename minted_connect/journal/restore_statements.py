"""The SQL statements for the mark of a restored journal, and for the intents of orders that were imported."""

from __future__ import annotations

from collections.abc import Mapping

from minted_connect.journal.rows import COLUMNS

__all__ = ["restore_statements"]


def restore_statements(*, table: str, journal: str, claim_table: str) -> Mapping[str, str]:
    """Return statements of `Statements`; the arguments are those of its `build`."""
    columns = ", ".join(COLUMNS)
    is_own = "(account IS NULL OR account IN (:account, :unnamed))"
    is_customer = f"external_customer_id IN (:customer, :customer_hash) AND {is_own}"
    # Nothing interpolated here is input: names are constants, and values are bound.
    return {
        "find_mark": f"SELECT restored_from, imported_accounts FROM {journal}",  # noqa: S608
        "mark": f"UPDATE {journal} SET identity = :identity, imported_accounts = NULL, restored_from = CASE "  # noqa: S608
        "WHEN restored_from < :at THEN restored_from ELSE :at END",
        "end_import": f"UPDATE {journal} SET imported_accounts = :accounts, "  # noqa: S608
        "restored_from = CASE WHEN :is_last THEN NULL ELSE restored_from END WHERE restored_from = :mark",
        "find_other_accounts": f"SELECT account FROM {table} WHERE account NOT IN (:account, :unnamed) "  # noqa: S608
        f"UNION SELECT account FROM {claim_table} WHERE account NOT IN (:account, :unnamed)",
        "find_imported": f"SELECT {columns} FROM {table} WHERE {is_customer} "  # noqa: S608
        "AND imported_at IS NOT NULL AND assigned_at IS NULL",
        "find_of_customer": f"SELECT {columns} FROM {table} WHERE {is_customer}",  # noqa: S608
        "assign": f"UPDATE {table} SET reference = :reference, terms = :terms, assigned_at = :at WHERE id = :id",  # noqa: S608
    }
