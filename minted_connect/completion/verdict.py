"""The evidence that was read back about a completion, and the verdict it proves. No I/O.

The default is UNKNOWN. Every other verdict names the fact that proves it. Before any read, `classify` decides what a
failed request means, and `outcome_unknown.mark_unknown` marks an outcome as unknown.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

__all__ = ["BasketSeen", "Evidence", "Fence", "Likelihood", "OrderSeen", "Outcome", "Verdict", "verdict"]

# A basket counts as still open after this many reads over at least this many seconds.
STABLE_READS: Final = 3
STABLE_SECONDS: Final = 60.0


class OrderSeen(enum.Enum):
    """The state of the order of the intent in the list of orders."""

    NONE = "none"
    STILL_BASKET = "still a basket"
    """Listed, but with another creation status than `order`: not an order yet."""
    ACCEPTED = "accepted"
    FAILED = "failed"
    """Cancelled, rejected, refunded or in another failing status."""


class BasketSeen(enum.Enum):
    """The state of the basket with the intent's token."""

    UNREAD = "unread"
    """It could not be read, or the response belonged to another customer."""
    GONE = "gone"
    """No longer returned as the active basket, or returned without items or as an order."""
    ACTIVE = "active"


class Fence(enum.Enum):
    """The result of clearing the basket, so that a late completion has nothing to complete."""

    NOT_USED = "not used"
    CLEARED = "cleared"
    """A response showed this basket, still a basket and without items."""
    REFUSED = "refused"
    """The server refused to clear the basket."""


class Outcome(enum.Enum):
    """The outcome of a completion that the evidence proves."""

    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    NOT_EXECUTED = "not executed"
    UNKNOWN = "unknown"


class Likelihood(enum.Enum):
    """Which outcome is likely while it is unknown: a hint for people, never a reason to send again."""

    NONE = "undecided"
    EXECUTED = "probably executed"
    NOT_EXECUTED = "probably not executed"


@attrs.frozen(kw_only=True)
class Evidence:
    """The results of all polls so far. The defaults prove nothing."""

    order: OrderSeen = OrderSeen.NONE
    likely_orders: int = 0
    """Number of orders that may belong to the intent but that no key proves (`Match.LIKELY`)."""
    is_search_complete: bool = False
    """Whether the latest search of the orders read every page that it needed."""
    basket: BasketSeen = BasketSeen.UNREAD
    active_reads: int = 0
    """Number of consecutive reads up to the latest that showed the basket active and no order."""
    active_seconds: float = 0.0
    """Seconds from the first of those reads to the latest."""
    fence: Fence = Fence.NOT_USED
    fence_seconds: float = 0.0
    """Seconds from the clearing of the basket, or from the first read that showed it cleared, to the latest search."""
    fence_proves_not_executed: bool = False
    """`CompletionPolicy.fence_proves_not_executed` (question Q6)."""
    orders_lag: float = 30.0
    """`CompletionPolicy.orders_lag` (question Q5)."""
    latest_landing: float | None = None
    """`CompletionPolicy.latest_landing` (question Q1)."""
    is_refusal_settled: bool = False
    """Whether the completion was refused and the latest read-back began late enough to show an order that was made in
    spite of the refusal."""
    may_still_be_sent: bool = False
    """Whether the process that prepared the intent may still send it, or may have sent it too recently for its order to
    show."""


@attrs.frozen
class Verdict:
    """The outcome that the evidence proves, with the reason."""

    outcome: Outcome
    reason: str
    likelihood: Likelihood = Likelihood.NONE


def verdict(evidence: Evidence) -> Verdict:
    """Return the verdict that the evidence proves, UNKNOWN if it proves none."""
    latest_landing = evidence.latest_landing
    if evidence.order is OrderSeen.ACCEPTED:
        return Verdict(Outcome.CONFIRMED, "the order exists")
    if evidence.order is OrderSeen.FAILED:
        return Verdict(Outcome.REJECTED, "the order failed, was cancelled or was refunded")
    if evidence.likely_orders:
        return _unknown("orders without a matching key may belong to this purchase: a person has to decide")
    if not evidence.is_search_complete:
        return _unknown("the list of orders could not be read completely")
    if evidence.fence is Fence.REFUSED:
        return _unknown("no order is listed yet, and the server refuses to clear the basket", Likelihood.EXECUTED)
    if evidence.is_refusal_settled and evidence.basket is BasketSeen.ACTIVE:
        return Verdict(Outcome.REJECTED, "the completion was refused, no order is listed, and the basket is still open")
    # A fence proves something only while the basket is empty: a late completion would complete items added since.
    if evidence.fence is Fence.CLEARED and evidence.basket is not BasketSeen.ACTIVE:
        if evidence.may_still_be_sent or evidence.fence_seconds < evidence.orders_lag + (latest_landing or 0.0):
            return _unknown("no order is listed yet, and the basket was cleared only recently", Likelihood.NOT_EXECUTED)
        if evidence.fence_proves_not_executed and evidence.basket is BasketSeen.GONE:
            return Verdict(Outcome.NOT_EXECUTED, "the basket was cleared, and no order was listed afterwards")
        return _unknown("the basket was cleared, and no order was listed afterwards", Likelihood.NOT_EXECUTED)
    if evidence.basket is BasketSeen.GONE:
        return _unknown("no order is listed yet, and the basket is gone", Likelihood.EXECUTED)
    if (
        evidence.basket is BasketSeen.ACTIVE
        and evidence.active_reads >= STABLE_READS
        and evidence.active_seconds >= STABLE_SECONDS
    ):
        # The completion was sent before the first of these reads, so it is older than the time between them.
        is_too_late = latest_landing is not None and evidence.active_seconds >= latest_landing + evidence.orders_lag
        if is_too_late and not evidence.may_still_be_sent:
            return Verdict(Outcome.NOT_EXECUTED, "the basket is still open, and it is too late for an order to be made")
        return _unknown("no order is listed, and the basket is still open", Likelihood.NOT_EXECUTED)
    return _unknown("no order is listed yet; the request may still be in flight")


def _unknown(reason: str, likelihood: Likelihood = Likelihood.NONE) -> Verdict:
    return Verdict(Outcome.UNKNOWN, reason, likelihood)
