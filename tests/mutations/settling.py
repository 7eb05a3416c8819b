"""Settling many intents, and the text of an unknown outcome: statements 14 and 55."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

SETTLING = [
    Mutation(
        14,
        "the walk over all orders confirms a purchase whose order was cancelled",
        "completion/reconcile_all.py",
        "if row.seen is OrderSeen.ACCEPTED}",
        "if row.seen is not OrderSeen.STILL_BASKET}",
        "completion/test_reconcile_all.py",
    ),
    Mutation(
        14,
        "one order counts for two intents",
        "completion/reconcile_all.py",
        "if owner is not None and owner.id != intent.id and",
        "if owner is None and",
        "completion/test_reconcile_all.py",
    ),
    Mutation(
        55,
        "the number of searched orders is not counted",
        "completion/reconcile.py",
        "        self._searched.update(one.key for one in listed)\n",
        "",
        "completion/test_unknown_text.py",
    ),
    Mutation(
        55,
        "the text does not say how sure the outcome is",
        "completion/unknown_text.py",
        "is unknown, {report.likelihood.value}: ",
        "is unknown: ",
        "completion/test_unknown_text.py",
    ),
    Mutation(
        55,
        "the next step ignores the time until a refusal is settled",
        "completion/unknown_text.py",
        "    if seconds_to_settle > 0:",
        "    if False:",
        "completion/test_unknown_text.py",
    ),
    Mutation(
        55,
        "the next budget does not suffice for a verdict",
        "completion/unknown_text.py",
        "_with_budget(max(STABLE_SECONDS, settle_time))",
        "_with_budget(STABLE_SECONDS)",
        "completion/test_unknown_text.py",
    ),
]
