"""The SQL statements that erase a customer."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["erasure_statements"]


def erasure_statements(*, table: str) -> Mapping[str, str]:
    """Return statements of `Statements`; the argument is the one of its `build`."""
    # Nothing interpolated here is input: names are constants, and values are bound.
    return {
        "find_erasable": f"SELECT id, state, reference, terms, progress FROM {table} "  # noqa: S608
        "WHERE external_customer_id = :customer AND (account IS NULL OR account IN (:account, :unnamed))",
        "erase": f"UPDATE {table} SET external_customer_id = :erased, reference = :new_reference, terms = :terms, "  # noqa: S608
        "progress = :progress, finished = (1 = 1), erased_at = :at WHERE id = :id",
    }
