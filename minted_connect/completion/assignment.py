"""Assigns intents that were imported for orders to the references that they belong to."""

from __future__ import annotations

import json
import logging
from datetime import datetime

from minted_connect import validation
from minted_connect.completion.reference import make_reference
from minted_connect.completion.settlement import describe_intent
from minted_connect.core.cancellation import shielded
from minted_connect.errors import InvalidInput
from minted_connect.journal.protocol import Journal, JournalAccount, ReferenceKey
from minted_connect.journal.restoring import as_restorable, pieces_of
from minted_connect.models import Intent, OrderKind

__all__ = ["assign_reference"]

_logger = logging.getLogger("minted_connect.completion")


async def assign_reference(
    journal: Journal,
    intent_id: str,
    reference: str | None,
    *,
    owner: JournalAccount | None,
    unnamed_account: str | None,
    at: datetime,
) -> Intent:
    """Assign an imported intent to a reference, or to none, and return it.

    Args:
        journal: The journal.
        intent_id: Id of the intent.
        reference: The reference; None = none.
        owner: The account of the client. None = the one of the intent.
        unnamed_account: As in `ReferenceKey`. None = the account of the intent.
        at: Time of the assignment, by the client's clock.

    Raises:
        InvalidInput: as `complete.assign_reference`.
        ConfigurationError: if the journal cannot contain imported intents.
        JournalError: if the journal cannot be read or written.
    """
    restorable = as_restorable("assign_reference", journal)
    stored = await journal.get(validation.text("intent_id", intent_id))
    if stored is None:
        raise InvalidInput.of("intent_id", f"intent {intent_id} is not in this journal")
    account = stored.account or ""
    if owner is not None and account not in {owner.account, unnamed_account}:
        raise InvalidInput.of("intent_id", f"intent {intent_id} belongs to another account: use its client")
    key = terms = None
    if reference is not None:
        key = ReferenceKey(
            reference,
            JournalAccount(stored.server or "", account),
            account if unnamed_account is None else unnamed_account,
        )
        terms = _terms_of(stored, reference)
    assigned = await shielded(restorable.assign_reference(intent_id, key, terms, at))
    _logger.warning("%s: assigned to %s", describe_intent(stored), "no reference" if key is None else "a reference")
    return assigned


def _terms_of(intent: Intent, reference: str) -> str:
    """Return the terms of an imported intent. Those of a delivery have no address, which is not known."""
    named = make_reference(
        reference, intent.kind, intent.external_customer_id, pieces_of(intent), intent.currency_code, {}
    )
    if intent.kind is not OrderKind.DELIVERY:
        return named.terms
    terms = {name: value for name, value in json.loads(named.terms).items() if name != "address"}
    return json.dumps(terms, sort_keys=True)
