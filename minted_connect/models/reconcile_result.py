"""The result of one intent of `complete.reconcile_all`."""

from __future__ import annotations

import attrs

from minted_connect.models.intent import Intent
from minted_connect.models.order import Completion

__all__ = ["ReconcileResult"]


@attrs.frozen
class ReconcileResult:
    """The result of one intent of `complete.reconcile_all`: what `complete.reconcile` returns or raises for it."""

    intent: Intent
    """As the journal had it before."""
    completion: Completion | None = None
    """The completion, if the order was made."""
    error: Exception | None = None
    """The error, if there is no completion. `CompletionRejected` and `NotExecuted` settle the intent; after
    `OutcomeUnknown` and every other error, it is still open."""
