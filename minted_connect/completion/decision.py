"""Records the outcome of an intent that a person found out."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from minted_connect import validation
from minted_connect.completion.settlement import Settlement
from minted_connect.errors import InvalidInput
from minted_connect.journal.protocol import CLOSED
from minted_connect.models import IntentState

__all__ = ["decide_intent"]

_DECISIONS: Final = frozenset({IntentState.CONFIRMED, IntentState.REJECTED, IntentState.NOT_EXECUTED})


async def decide_intent(
    settlement: Settlement, intent_id: str, state: IntentState | str, order_id: int | None, *, at: datetime
) -> None:
    """Settle an intent as a person decided.

    Args:
        settlement: Of the client.
        intent_id: Id of the intent.
        state: Its outcome.
        order_id: The number of the order, if it is known.
        at: Time of the decision, by the client's clock.

    Raises:
        InvalidInput: as `complete.decide`.
        JournalError: if the journal cannot be read or written.
    """
    decided = IntentState(validation.one_of("state", state, _DECISIONS))
    if order_id is not None:
        validation.integer("order_id", order_id, 1)
    stored = await settlement.load(intent_id)
    settlement.check_owner(stored)
    if stored.state in CLOSED and decided not in {stored.state, IntentState.CONFIRMED}:
        text = f"intent {intent_id} has the outcome {stored.state}: only confirmed can replace it"
        raise InvalidInput.of("intent_or_error", text)
    await settlement.settle_manually(stored, decided, order_id, at)
