"""The audit: statement 54. These mutations run with every land gate."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

AUDITS = [
    Mutation(
        54,
        "an order without an intent is not a finding",
        "audit/comparison.py",
        "            elif row.order is not None and self._period.includes(row.order.order_at):",
        "            elif False:",
        "audit/test_audit.py",
        "planted",
    ),
    Mutation(
        54,
        "a confirmed intent without an order is not a finding",
        "audit/comparison.py",
        "            elif not self._is_recent(intent) and intent.id not in self._unchecked:",
        "            elif False:",
        "audit/test_audit.py",
        "disappeared",
    ),
    Mutation(
        54,
        "the total of an order is not compared",
        "audit/comparison.py",
        "    if order.paid_total != intent.paid_total and",
        "    if False and",
        "audit/test_audit.py",
        "planted",
    ),
    Mutation(
        54,
        "references of two journals are not compared",
        "audit/comparison.py",
        "            if len(confirmed) < 2 or not",
        "            if len(confirmed) < 3 or not",
        "audit/test_audit.py",
        "planted",
    ),
    Mutation(
        54,
        "a cancelled order behind a confirmed intent is not a finding",
        "audit/comparison.py",
        "        if row.is_failed:\n",
        "        if False:\n",
        "audit/test_audit.py",
        "planted",
    ),
    Mutation(
        54,
        "a journal that cannot be read counts as one without intents",
        "audit/run.py",
        "        return name, [str(error)]",
        "        return name, []",
        "audit/test_audit.py",
        "unreadable_journal",
    ),
    Mutation(
        54,
        "a list of orders that cannot be read counts as an empty one",
        "audit/rows.py",
        'return Orders(rows, [Unread("orders", str(error))], has_failed=True)',
        "return Orders(rows, [], has_failed=True)",
        "audit/test_audit.py",
        "unreadable_orders",
    ),
    Mutation(
        54,
        "a wallet that changed without an order is not a finding",
        "audit/wallets.py",
        "            if old + change != new:",
        "            if False:",
        "audit/test_wallets.py",
        "without_an_order",
    ),
]
