"""The record of a completion about to be sent, written down before it is."""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from decimal import Decimal

import attrs

from minted_connect.models.deal import OrderKind
from minted_connect.models.masking import masked_except_last
from minted_connect.models.order import OrderProgress

__all__ = ["Intent", "IntentState", "Refusal"]


class IntentState(enum.StrEnum):
    """What is known about an intent; a state of a later version stays a plain string."""

    PREPARED = "prepared"
    """Written down; whether it was sent is not known."""
    CONFIRMED = "confirmed"
    """The order exists."""
    REJECTED = "rejected"
    """The server refused it."""
    NOT_SENT = "not_sent"
    """Provably never reached the server."""
    NOT_EXECUTED = "not_executed"
    """Proven not to have happened."""
    UNKNOWN = "unknown"
    """It may have happened: reconcile it."""


@attrs.frozen
class Refusal:
    """The response that refused a completion. It is kept until it is confirmed or disproved by reading back."""

    status: int
    """HTTP status."""
    is_vendor_response: bool
    """Whether the response came in the vendor's envelope; a gateway may have written any other."""
    at: datetime
    """Time of the response, aware, by the server's clock."""


@attrs.frozen
class Intent:
    """One completion of one basket, with everything needed to find out later whether it happened."""

    id: str
    """A UUID of this library's own; the vendor knows nothing of it."""
    kind: OrderKind
    external_customer_id: str = attrs.field(repr=masked_except_last)
    cart_token: str = attrs.field(repr=masked_except_last)
    basket_id: int
    guid: str
    increment_id: str
    price_token: str = attrs.field(repr=masked_except_last)
    paid_total: Decimal
    """Money the caller agreed to, in `currency_code`."""
    currency_code: str
    items: tuple[tuple[str, int], ...]
    """(sku, pieces) of every line."""
    created_at: datetime
    """Aware, by the client's clock."""
    state: IntentState | str = IntentState.PREPARED
    clock_offset: int = 0
    """Seconds that the server's clock was ahead of the client's then, as far as it showed: widens the search."""
    known_orders: tuple[int, ...] = ()
    """Numbers of orders that the customer had before (`CompletionPolicy.pre_image`): none of them is this one's."""
    order_id: int | None = None
    """Number of the order that it became, once confirmed and as far as it could be read."""
    progress: OrderProgress | None = None
    """What was last seen of that order; None if nothing was."""
    fenced_at: datetime | None = None
    """When its basket was first about to be cleared (`reconcile(fence=True)`), by the client's clock; None if never."""
    server: str | None = attrs.field(default=None, repr=False)
    """Hash of the base URL it was prepared for; None for records of an older schema."""
    account: str | None = attrs.field(default=None, repr=False)
    """Hash of the account it was prepared by (`Options.journal_account`); None for records of an older schema."""
    send_before: datetime | None = None
    """Time after which it is not sent any more, aware, by the server's clock; None for records of an older schema."""
    refusal: Refusal | None = None
    """The response that refused it, if there was one and it is not confirmed yet."""

    @property
    def created_by_server(self) -> datetime:
        """When it was written down, by the server's clock."""
        return self.created_at + timedelta(seconds=self.clock_offset)
