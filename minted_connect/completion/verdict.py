"""What was read back, and what it proves: pure data and one pure function.

The safe answer is UNKNOWN. Every branch that decides something names the fact that proves it.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

__all__ = ["BasketSeen", "Evidence", "Fence", "Likelihood", "OrderSeen", "Outcome", "Verdict", "verdict"]

STABLE_READS: Final = 3
STABLE_SECONDS: Final = 60.0


class OrderSeen(enum.Enum):
    """The strongest thing the order list holds for this intent."""

    NONE = "none"
    STILL_BASKET = "still a basket"
    """Listed, but not an order yet: counts as none."""
    ACCEPTED = "accepted"
    FAILED = "failed"
    """Cancelled, refused or paid back."""


class BasketSeen(enum.Enum):
    """What became of the basket with the intent's token."""

    UNREAD = "unread"
    """It could not be read, or the response belonged to another customer."""
    GONE = "gone"
    """Not answered any more, or answered without lines or as an order."""
    ACTIVE = "active"


class Fence(enum.Enum):
    """What came of clearing the basket, so that a late completion finds nothing to complete."""

    NOT_USED = "not used"
    CLEARED = "cleared"
    """The answer showed this very basket, still a basket, without lines."""
    REFUSED = "refused"


class Outcome(enum.Enum):
    """What is proven."""

    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    NOT_EXECUTED = "not executed"
    UNKNOWN = "unknown"


class Likelihood(enum.Enum):
    """Where an unknown outcome leans: a hint for people, never a reason to send again."""

    NONE = "undecided"
    EXECUTED = "leaning executed"
    NOT_EXECUTED = "leaning not executed"


@attrs.frozen(kw_only=True)
class Evidence:
    """What was read back so far. The defaults know nothing."""

    order: OrderSeen = OrderSeen.NONE
    likely: int = 0
    """Orders that look like the intent but carry none of its keys."""
    searched: bool = False
    """Whether the latest search of the orders read every page there was to read."""
    basket: BasketSeen = BasketSeen.UNREAD
    active_reads: int = 0
    """Reads in a row, the latest included, that showed the basket active and no order."""
    active_seconds: float = 0.0
    """From the first of those reads to the latest."""
    fence: Fence = Fence.NOT_USED
    fence_seconds: float = 0.0
    """From the clearing of the basket to the latest search."""
    fence_proves: bool = False
    """Whether a cleared basket is known to make a late completion fail (question Q6)."""
    orders_lag: float = 30.0
    """Seconds within which a fresh order shows (question Q5)."""
    latest_landing: float | None = None
    """Seconds after which what was sent can no longer be carried out, if that is known (questions Q1 and Q3)."""
    refusal_is_settled: bool = False
    """Whether the completion was refused, and the latest look began after the time in which an order that the refusal
    did not report would have been made and shown."""
    may_still_be_sent: bool = False
    """Whether the intent is prepared only and the process that prepared it may still send it, or an order that it sent
    at the last moment may not show yet."""


@attrs.frozen
class Verdict:
    """What the evidence proves, and why."""

    outcome: Outcome
    reason: str
    leaning: Likelihood = Likelihood.NONE


def verdict(evidence: Evidence) -> Verdict:
    """Return what the evidence proves; UNKNOWN unless something is proven."""
    if evidence.order is OrderSeen.ACCEPTED:
        return Verdict(Outcome.CONFIRMED, "the order exists")
    if evidence.order is OrderSeen.FAILED:
        return Verdict(Outcome.REJECTED, "the order was cancelled or refunded")
    if evidence.likely:
        return _unknown("there are orders that look like it, but carry none of its keys: a person has to decide")
    if not evidence.searched:
        return _unknown("the orders could not be read completely")
    if evidence.fence is Fence.REFUSED:
        return _unknown("no order yet, and the basket cannot be cleared any more", Likelihood.EXECUTED)
    if evidence.refusal_is_settled and evidence.basket is BasketSeen.ACTIVE:
        return Verdict(Outcome.REJECTED, "it was refused, no order appeared, and the basket is still open")
    bound = evidence.latest_landing
    # A fence holds as long as the basket is empty: what lands later completes whatever was put into it since.
    if evidence.fence is Fence.CLEARED and evidence.basket is not BasketSeen.ACTIVE:
        if evidence.may_still_be_sent or evidence.fence_seconds < evidence.orders_lag + (bound or 0.0):
            return _unknown("no order yet, and the basket was cleared a moment ago", Likelihood.NOT_EXECUTED)
        if evidence.fence_proves and evidence.basket is BasketSeen.GONE:
            return Verdict(Outcome.NOT_EXECUTED, "the basket was cleared, and no order appeared afterwards")
        return _unknown("the basket was cleared, and no order appeared afterwards", Likelihood.NOT_EXECUTED)
    if evidence.basket is BasketSeen.GONE:
        return _unknown("no order yet, and the basket is gone", Likelihood.EXECUTED)
    if (
        evidence.basket is BasketSeen.ACTIVE
        and evidence.active_reads >= STABLE_READS
        and evidence.active_seconds >= STABLE_SECONDS
    ):
        # It was sent before the first of these reads, so it is older than they span.
        is_too_late = bound is not None and evidence.active_seconds >= bound + evidence.orders_lag
        if is_too_late and not evidence.may_still_be_sent:
            return Verdict(Outcome.NOT_EXECUTED, "the basket stays open, and it is too late for an order to appear")
        return _unknown("no order, and the basket stays open", Likelihood.NOT_EXECUTED)
    return _unknown("no order yet; the request may still be under way")


def _unknown(reason: str, leaning: Likelihood = Likelihood.NONE) -> Verdict:
    return Verdict(Outcome.UNKNOWN, reason, leaning)
