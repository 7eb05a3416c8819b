"""Completes a basket that the caller has filled: one call at a time, and at most once for a reference."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from minted_connect.completion.agreed_total import AgreedTotal
from minted_connect.completion.execution import Execution
from minted_connect.completion.in_flight import InFlight
from minted_connect.completion.interruption import attach_purchase, watch_purchase
from minted_connect.completion.order_match import pieces_by_sku
from minted_connect.completion.reference import (
    check_attempts,
    find_attempts,
    find_claim,
    make_reference,
    replay_confirmed,
)
from minted_connect.completion.settlement import Settlement
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import AlreadyInFlight
from minted_connect.models import Basket, Completion, OrderKind

__all__ = ["complete_basket"]


async def complete_basket(
    api: ApiClient,
    settlement: Settlement,
    kind: OrderKind,
    basket: Basket,
    agreed: AgreedTotal,
    reference: str | None,
    extra: Mapping[str, Any],
) -> Completion:
    """Complete a basket, or return the result of an equal call that is in flight or of an earlier one.

    Args:
        api: Sends the requests.
        settlement: The journal and the completions in flight.
        kind: Kind of the completion.
        basket: The basket as the caller has read it, with items.
        agreed: The total that the caller agreed to.
        reference: The caller's own key, or None.
        extra: Further fields of the request's body.

    Raises:
        MintedConnectError: as documented for `AsyncCompletions.buy`.
    """
    key = (basket.customer.external_id, basket.token)
    pieces, customer = pieces_by_sku(basket), basket.customer.external_id
    named = None
    if reference is not None:
        named = make_reference(reference, kind, customer, pieces, basket.currency_code, extra)
    call = InFlight(kind, agreed, extra, (pieces, basket.currency_code), named)
    # Waiting for an equal call or for the customer's lock counts towards the time of this call.
    timeout = api.settings.deadline or api.settings.timeouts.complete_total
    end = api.clock.monotonic() + timeout
    # A completion of the parent process or of another event loop would never end for this caller.
    api.check_usable()
    if named is not None:
        attempts = await find_attempts(api, settlement, named)
        # Before waiting for other calls: a wait that fails must not hide that the reference was confirmed.
        if (replayed := await replay_confirmed(api, attempts, end=end)) is not None:
            return replayed
    while (other := settlement.in_flight.get(key)) is not None:
        if not call.has_same_terms(other):
            holder = other.intent.id if other.intent is not None else None
            raise AlreadyInFlight("this basket is being completed by a call with other arguments", holder)
        watch_purchase(other)
        try:
            await other.done.wait()
        except asyncio.CancelledError as cancelled:
            # The other call continues, and this caller must be able to find out its outcome.
            attach_purchase(cancelled, other)
            raise
        if other.error is not None:
            raise other.error
        if other.result is not None:
            return other.result
        # The other call was cancelled before it sent anything: one of the waiting calls takes over.
    with settlement.registered(key, call):
        # Until this call ends, this client changes none of the customer's baskets: an item that is added
        # between the preflight read and the completion would be bought without having been agreed to.
        async with api.hold_lock(basket.customer.external_id, timeout):
            call.result = await _complete_or_replay(api, settlement, call, basket, end)
    return call.result


async def _complete_or_replay(
    api: ApiClient, settlement: Settlement, call: InFlight, basket: Basket, end: float
) -> Completion:
    """Complete the basket, or return the completion of a reference that was completed before."""
    reference = call.reference
    if reference is None:
        return await Execution(api, settlement, call, attempts=None, end=end).run(basket)
    attempts = await find_attempts(api, settlement, reference)
    replayed = await replay_confirmed(api, attempts, end=end)
    if replayed is None:
        claim = await find_claim(settlement, attempts, reference, basket)
        replayed = await check_attempts(api, settlement, attempts, claim, end=end)
    if replayed is not None:
        return replayed
    try:
        return await Execution(api, settlement, call, attempts=attempts, end=end).run(basket)
    except AlreadyInFlight:
        # Another process may have completed the reference since it was checked.
        replayed = await replay_confirmed(api, await find_attempts(api, settlement, reference), end=end)
        if replayed is None:
            raise
        return replayed
