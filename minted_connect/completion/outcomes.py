"""Settles an intent as confirmed, rejected or not executed, and builds the completion or the error.

`outcome_unknown` does the same if the outcome is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from minted_connect.completion.order_match import differences, identifiers
from minted_connect.completion.outcome_unknown import mark_unknown
from minted_connect.completion.reconcile import ReadBackResult
from minted_connect.completion.settlement import Settlement, describe_error, describe_intent
from minted_connect.completion.verdict import OrderSeen, Outcome
from minted_connect.errors import CompletionRejected, MintedConnectError, NotExecuted, Phase
from minted_connect.models import Completion, Intent, IntentState, Order

__all__ = ["FAILED_ORDER", "confirm", "resolve"]

_logger = logging.getLogger("minted_connect.completion")

FAILED_ORDER: Final = "an order was made, but it failed, was cancelled or was refunded"


async def resolve(
    settlement: Settlement, intent: Intent, found: ReadBackResult, phase: Phase, error: Exception | None = None
) -> Completion:
    """Settle an intent by the result of its read-back: return the completion or raise the error.

    Args:
        settlement: The settlement of the client.
        intent: The intent.
        found: The result of the read-back.
        phase: The phase that the request reached, for `OutcomeUnknown`.
        error: The failure that made the read-back necessary; None in a reconciliation.

    Raises:
        CompletionRejected: if the order failed, or the completion was refused and no order was made.
        NotExecuted: if the completion was provably not executed, or if another process has settled it so and completed
            the basket again.
        OutcomeUnknown: if the outcome is still unknown.
    """
    raised: MintedConnectError
    is_found = found.evidence.order in {OrderSeen.ACCEPTED, OrderSeen.FAILED}
    if is_found and (successor := await settlement.find_successor(intent)) is not None:
        # Otherwise one order would count for two intents, and for two references.
        text = f"its basket was completed again by intent {successor.id}, to which the order belongs"
        raise NotExecuted(f"intent {intent.id}: {text}", intent) from error
    match found.verdict.outcome:
        case Outcome.CONFIRMED:
            return await confirm(settlement, intent, found.order, found.raw, reconciled=True, notes=found.notes)
        case Outcome.REJECTED:
            raised = await reject(settlement, intent, found.order, confirms_refusal=found.confirms_refusal)
        case Outcome.NOT_EXECUTED:
            raised = await mark_not_executed(settlement, intent, found.verdict.reason)
        case Outcome.UNKNOWN:
            cause = () if error is None else (describe_error(error),)
            raised = await mark_unknown(settlement, intent, phase, (*cause, *found.notes), found.report)
    if error is None:
        raise raised
    raise raised from error


async def confirm(
    settlement: Settlement,
    intent: Intent,
    order: Order | None,
    raw: Mapping[str, Any],
    *,
    reconciled: bool,
    notes: tuple[str, ...] = (),
) -> Completion:
    """Settle an intent as confirmed, and return the completion with the differences from what was agreed."""
    differing = (*differences(raw, order, intent), *notes)
    completion = Completion(order, identifiers(raw), raw, reconciled, differing)
    for difference in differing:
        _logger.warning("%s: %s", describe_intent(intent), difference)
    if reconciled:
        number = completion.keys.get("id", "(without a number)")
        _logger.warning("%s: settled as confirmed: order %s", describe_intent(intent), number)
    await settlement.settle(intent, IntentState.CONFIRMED, completion)
    await settlement.log_double_reference(intent)
    return completion


async def reject(
    settlement: Settlement, intent: Intent, order: Order | None, *, confirms_refusal: bool
) -> CompletionRejected:
    """Settle an intent as rejected, and build the error to raise.

    Args:
        settlement: The settlement of the client.
        intent: The intent.
        order: The order that failed, if it could be parsed.
        confirms_refusal: Whether the server refused the completion and no order was made.
    """
    if confirms_refusal and intent.refusal is not None:
        text = f"the server refused it with status {intent.refusal.status}, and no order was made"
        rejected = CompletionRejected(f"intent {intent.id}: {text}", None, intent.refusal)
    else:
        text = FAILED_ORDER
        rejected = CompletionRejected(f"intent {intent.id}: {text}", order)
    _logger.warning("%s: settled as rejected: %s", describe_intent(intent), text)
    await settlement.settle(intent, IntentState.REJECTED, rejected)
    return rejected


async def mark_not_executed(settlement: Settlement, intent: Intent, reason: str) -> NotExecuted:
    """Settle an intent as not executed, and build the error to raise."""
    _logger.warning("%s: settled as not executed: %s", describe_intent(intent), reason)
    error = NotExecuted(f"intent {intent.id}: {reason}", intent)
    await settlement.settle(intent, IntentState.NOT_EXECUTED, error)
    return error
