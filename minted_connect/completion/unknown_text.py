"""Words an unknown outcome: what was seen, how sure that is, and what to do next. No I/O.

All `OutcomeUnknown` errors are built here.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from minted_connect.completion.verdict import (
    STABLE_SECONDS,
    BasketSeen,
    Evidence,
    Fence,
    Likelihood,
    OrderSeen,
)
from minted_connect.errors import OutcomeUnknown, Phase
from minted_connect.models import Intent

__all__ = ["NOT_READ", "Report", "build_unknown", "report_reads"]

_POLL_SECONDS: Final = 20.0
"""Seconds to add to a budget so that its last poll is not too early: the longest wait between polls, and that poll."""
_RETRY_SECONDS: Final = 30.0
"""Seconds after which to reconcile again if the server could not be read."""


@attrs.frozen
class Report:
    """An unknown outcome in words, without personal data."""

    seen: str
    """The orders that were searched, and the state of the basket."""
    likelihood: Likelihood
    """The likely outcome: a hint for people."""
    next_step: str
    """The next step of the caller, as an imperative."""


NOT_READ: Final = Report("orders and basket were not read since", Likelihood.NONE, "reconcile it")
"""The report before the first read-back."""


def report_reads(
    evidence: Evidence,
    likelihood: Likelihood,
    intent: Intent,
    *,
    orders: int,
    seconds_to_settle: float,
    has_failed_permanently: bool,
) -> Report:
    """Word the evidence of a read-back whose verdict is unknown.

    Args:
        evidence: The evidence.
        likelihood: The likely outcome, by the verdict.
        intent: The intent.
        orders: Number of orders of the customer that were searched.
        seconds_to_settle: Seconds until an order that this completion may have made would show: a refused one, or one
            that another process may still send. 0 if that does not apply.
        has_failed_permanently: Whether further reads would fail as the latest one did.
    """
    seen = f"{_describe_orders(evidence, orders)}; {_describe_basket(evidence)}"
    if has_failed_permanently:
        return Report(seen, likelihood, "correct the failure of the reads (closed client or password), then reconcile")
    return Report(seen, likelihood, _next_step(evidence, intent, seconds_to_settle))


def build_unknown(
    intent: Intent, phase: Phase, evidence: tuple[str, ...] = (), report: Report = NOT_READ
) -> OutcomeUnknown:
    """Build the error for an unknown outcome, whose text and evidence contain the report.

    Args:
        intent: The intent.
        phase: The phase that the request reached.
        evidence: Further notes, without personal data; they come first.
        report: The result of the latest read-back.
    """
    return OutcomeUnknown(
        f"the outcome of intent {intent.id} is unknown, {report.likelihood.value}: {report.seen}. Do not repeat the "
        f"completion. Next: {report.next_step}",
        intent,
        phase,
        (*evidence, f"seen: {report.seen}", f"next: {report.next_step}"),
    )


def _describe_orders(evidence: Evidence, orders: int) -> str:
    searched = f"orders of the customer searched: {orders}"
    if not evidence.is_search_complete:
        searched += " (the list could not be read completely)"
    if evidence.order is OrderSeen.STILL_BASKET:
        return f"{searched}, the basket is listed, but not as an order"
    if evidence.likely_orders:
        return f"{searched}, {evidence.likely_orders} may be this purchase, but no key proves it"
    return f"{searched}, none has a key of the basket"


def _describe_basket(evidence: Evidence) -> str:
    match evidence.basket:
        case BasketSeen.UNREAD:
            basket = "the basket could not be read"
        case BasketSeen.GONE:
            basket = "the basket is empty or no longer the active one"
        case BasketSeen.ACTIVE if evidence.active_reads > 1:
            basket = f"the basket is still open ({evidence.active_reads} reads in {evidence.active_seconds:.0f} s)"
        case BasketSeen.ACTIVE:
            basket = "the basket is still open"
    match evidence.fence:
        case Fence.CLEARED:
            return f"{basket}; it was cleared at least {evidence.fence_seconds:.0f} s before"
        case Fence.REFUSED:
            return f"{basket}; the server refused to clear it"
        case Fence.NOT_USED:
            return basket


def _next_step(evidence: Evidence, intent: Intent, seconds_to_settle: float) -> str:
    ask = (
        f"ask the vendor whether basket {intent.basket_id} ({intent.increment_id}) became an order, and record the "
        "reply with complete.decide (reconcile --decide)"
    )
    settle_time = evidence.orders_lag + (evidence.latest_landing or 0.0)
    if evidence.likely_orders:
        return ask
    if not evidence.is_search_complete or evidence.basket is BasketSeen.UNREAD:
        return f"reconcile again after {_RETRY_SECONDS:.0f} s; the reads of orders and basket must succeed"
    if seconds_to_settle > 0:
        return f"reconcile again after {math.ceil(seconds_to_settle)} s"
    later = f"reconcile again after {math.ceil(evidence.orders_lag)} s; if it is still unknown then, {ask}"
    if evidence.basket is BasketSeen.GONE:
        if evidence.fence is Fence.CLEARED and evidence.fence_proves_not_executed:
            return _with_budget(settle_time)
        is_settled = evidence.fence is Fence.CLEARED and evidence.fence_seconds >= settle_time
        return ask if is_settled else later
    if evidence.latest_landing is not None:
        return _with_budget(max(STABLE_SECONDS, settle_time))
    if evidence.fence is Fence.NOT_USED and evidence.fence_proves_not_executed:
        return f"{_with_budget(settle_time)} and fence=True (reconcile --fence), which clears the basket"
    return ask if evidence.active_seconds >= evidence.orders_lag else later


def _with_budget(seconds: float) -> str:
    seconds = math.ceil(seconds + _POLL_SECONDS)
    return f"reconcile again with a budget of at least {seconds} s (reconcile --seconds {seconds})"
