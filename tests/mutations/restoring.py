"""Journals that were restored from a backup (statement 47). These mutations run with every land gate."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

RESTORING = [
    Mutation(
        47,
        "a restored journal stores a reference",
        "journal/sql.py",
        "        if key is not None or spending is not None:\n            yield from",
        "        if spending is not None:\n            yield from",
        "completion/test_restored_journals.py",
        "all_purchases and sqlite",
    ),
    Mutation(
        47,
        "a restored journal stores a purchase under limits",
        "journal/sql.py",
        "        if key is not None or spending is not None:\n",
        "        if key is not None:\n",
        "completion/test_restored_journals.py",
        "all_purchases and sqlite",
    ),
    Mutation(
        47,
        "a restored journal stores a claim",
        "journal/sql.py",
        "        yield from self._check_not_restored(claim.key.owner.account)\n",
        "",
        "completion/test_restored_journals.py",
        "all_purchases and sqlite",
    ),
    Mutation(
        47,
        "a backup has no mark",
        "journal/sqlite_backup.py",
        "        copy.execute(STATEMENTS.mark,",
        '        copy.execute(STATEMENTS.mark.replace("ELSE :at", "ELSE NULL"),',
        "completion/test_restored_journals.py",
        "private_marked",
    ),
    Mutation(
        47,
        "an import of an incomplete list removes the mark",
        "audit/importing.py",
        "        if orders.unread or unread:\n",
        "        if False:\n",
        "completion/test_import.py",
        "incomplete and async and sqlite",
    ),
    Mutation(
        47,
        "an imported order does not block a reference",
        "journal/sql.py",
        "            yield from self._check_imported(intent.terms, intent.external_customer_id, key)\n",
        "",
        "completion/test_import.py",
        "its_terms and async and sqlite",
    ),
    Mutation(
        47,
        "an imported order does not block a call with items",
        "journal/sql.py",
        "        yield from self._check_imported(claim.terms, claim.external_customer_id, claim.key)\n",
        "",
        "completion/test_import.py",
        "blocks_claims and sqlite",
    ),
    Mutation(
        47,
        "an imported delivery blocks its own address only",
        "journal/restoring.py",
        'for name in ("kind", "pieces", "currency")',
        'for name in ("kind", "pieces", "currency") if expected.get("address") is None',
        "completion/test_import.py",
        "sales and async and sqlite",
    ),
    Mutation(
        47,
        "one account's import removes the mark for all",
        "journal/sql_restore.py",
        "        is_last = others <= done\n",
        "        is_last = True\n",
        "completion/test_import.py",
        "other_accounts and async and sqlite",
    ),
]
