"""The journal record of a completion, stored before the request is sent."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

import attrs

from minted_connect.models.deal import OrderKind
from minted_connect.models.masking import masked, masked_except_last
from minted_connect.models.order import OrderProgress

__all__ = ["Intent", "IntentPage", "IntentState", "Refusal"]


class IntentState(enum.StrEnum):
    """Known values of `Intent.state`; a state of a later version of this library stays a plain string."""

    PREPARED = "prepared"
    """Stored; whether the request was sent is not known."""
    CONFIRMED = "confirmed"
    """The order exists."""
    REJECTED = "rejected"
    """The server refused it, or made an order that failed or was cancelled or refunded."""
    NOT_SENT = "not_sent"
    """The request provably did not reach the server."""
    NOT_EXECUTED = "not_executed"
    """The server provably did not execute the request."""
    UNKNOWN = "unknown"
    """The server may have executed the request: reconcile the intent."""


@attrs.frozen
class Refusal:
    """A response that refused a completion. Only reads can confirm or disprove it."""

    status: int
    """HTTP status."""
    is_vendor_response: bool
    """Whether the response has the vendor's envelope; a gateway may have written any other response."""
    at: datetime
    """Time of the response by the server's clock, timezone-aware."""


@attrs.frozen
class Intent:
    """One completion of one basket, with all data needed to find out later whether the server executed it."""

    id: str
    """A UUID from this library. It is sent to the vendor only as `CompletionPolicy.idempotency_header`."""
    kind: OrderKind
    external_customer_id: str = attrs.field(repr=masked_except_last)
    cart_token: str = attrs.field(repr=masked_except_last)
    basket_id: int
    guid: str
    increment_id: str
    price_token: str = attrs.field(repr=masked_except_last)
    paid_total: Decimal
    """Money that the caller agreed to, in `currency_code`."""
    currency_code: str
    items: tuple[tuple[str, int], ...]
    """(sku, number of pieces) of every line."""
    created_at: datetime
    """By the client's clock, timezone-aware."""
    state: IntentState | str = IntentState.PREPARED
    clock_offset: int = 0
    """Seconds by which the server's clock was measured to be ahead of the client's at `created_at`."""
    known_orders: tuple[int, ...] = ()
    """Ids of orders that existed before (`CompletionPolicy.pre_image`) and so cannot be the order of this intent."""
    order_id: int | None = None
    """Id of the order, if the intent is confirmed and the id could be read."""
    progress: OrderProgress | None = None
    """Last saved progress of the order; None if it was never saved."""
    fenced_at: datetime | None = None
    """Time of the first attempt to clear the basket (`reconcile(fence=True)`), by the client's clock; or None."""
    server: str | None = attrs.field(default=None, repr=False)
    """Hash of the base URL; None in records of an older schema."""
    account: str | None = attrs.field(default=None, repr=False)
    """Hash of the account (`Options.journal_account`); None in records of an older schema."""
    send_before: datetime | None = None
    """Latest time to send it, by the server's clock, timezone-aware; None in records of an older schema."""
    refusal: Refusal | None = None
    """The refusing response, if there was one."""
    reference: str | None = attrs.field(default=None, repr=masked_except_last)
    """The caller's own key (`reference=`), if one was given."""
    terms: str | None = attrs.field(default=None, repr=masked)
    """Kind, customer, pieces, currency and a hash of the address, as JSON, if a reference was given."""
    decided_at: datetime | None = None
    """Time of `complete.decide` for an intent with a reference, by the client's clock; None if it was not used."""
    forgotten_at: datetime | None = None
    """Time of `complete.forget`, by the client's clock; None if the record is complete. If it is set, `paid_total` is 0
    and the price token empty, and fields that a confirmed reference does not need have their defaults."""
    imported_at: datetime | None = None
    """Time of the `minted audit --import` that stored the intent for an order; None if a completion stored it. An order
    has no reference: until `complete.assign_reference`, the intent blocks references with the same terms."""
    assigned_at: datetime | None = None
    """Time of `complete.assign_reference`, by the client's clock; None if it was not used."""
    erased_at: datetime | None = None
    """Time of `complete.erase_customer`, by the client's clock; None if it was not used. If it is set, customer, terms
    and the reference (if it contained the customer id) have keyed hashes in place of names."""

    @property
    def created_by_server(self) -> datetime:
        """`created_at` by the server's clock."""
        return self.created_at + timedelta(seconds=self.clock_offset)


@attrs.frozen
class IntentPage:
    """Some intents of a journal, oldest first. Iterating over it yields the intents."""

    items: tuple[Intent, ...]
    """The intents that can be read."""
    unreadable: tuple[str, ...] = ()
    """Ids of the records that cannot be read. Each may be an open purchase."""
    next_after: int | None = None
    """Pass it as `after` to request the next page; None if this is the last one."""

    def __iter__(self) -> Iterator[Intent]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
