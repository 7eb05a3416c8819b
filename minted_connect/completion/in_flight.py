"""A completion in flight, as the callers see it that wait for its result."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import attrs

from minted_connect.completion.agreed_total import AgreedTotal
from minted_connect.models import Completion, Intent, IntentState, OrderKind

__all__ = ["InFlight", "Reference", "describe_state"]


@attrs.frozen
class Reference:
    """The caller's own key for a completion, and the terms that it stands for."""

    key: str = attrs.field(repr=False)
    terms: str = attrs.field(repr=False)
    """As stored in the journal; see `reference.make_reference`."""


@attrs.define(eq=False)
class InFlight:
    """A completion in flight; equal calls wait for its result."""

    kind: OrderKind
    agreed_total: AgreedTotal
    extra: Mapping[str, Any]
    """Further fields of the request's body."""
    agreed_basket: tuple[Mapping[str, int], str]
    """Pieces by sku and currency of the basket that the caller agreed to."""
    reference: Reference | None = None
    done: asyncio.Event = attrs.field(factory=asyncio.Event)
    intent: Intent | None = None
    may_be_sent: bool = False
    """Whether the intent is in the journal, so that the completion may have been sent."""
    state: IntentState | None = None
    """The outcome of the intent as soon as it is known: before the journal is updated."""
    result: Completion | None = None
    error: Exception | None = None

    def has_same_terms(self, other: InFlight) -> bool:
        """Return whether both calls complete the basket with the same arguments, so that one result serves both."""
        return (self.kind, self.agreed_total, self.extra, self.agreed_basket, self.reference) == (
            other.kind,
            other.agreed_total,
            other.extra,
            other.agreed_basket,
            other.reference,
        )

    def describe(self) -> str | None:
        """Return a note for the exception that cancels the completion, None if nothing was sent."""
        return describe_state(self.state, self.result or self.error)

    def describe_interruption(self) -> tuple[IntentState, str] | None:
        """Return the state and a note for an exception that interrupts the completion now, None if nothing was sent."""
        if not self.may_be_sent:
            return None
        state = self.state or IntentState.UNKNOWN
        note = describe_state(state, self.result or self.error)
        return None if note is None else (state, note)


def describe_state(state: IntentState | None, result: Completion | Exception | None) -> str | None:
    """Return a description of the outcome of an intent, None if nothing was sent."""
    match state:
        case IntentState.CONFIRMED:
            number = result.keys.get("id") if isinstance(result, Completion) else None
            return "was confirmed" if number is None else f"was confirmed as order {number}"
        case IntentState.REJECTED:
            return f"was rejected ({type(result).__name__})"
        case IntentState.NOT_EXECUTED:
            return "was not carried out"
        case IntentState.UNKNOWN:
            return "may have been executed: find it in complete.pending() and reconcile it"
        case _:
            return None
