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
        "        yield from self._check_not_restored()\n        yield from self._check_reference(claim.key, known)\n",
        "        yield from self._check_reference(claim.key, known)\n",
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
]
