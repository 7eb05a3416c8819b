"""Orders, their progress, documents and completions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Self

import attrs

from minted_connect.errors import OrderUnreadable
from minted_connect.models.customer import Customer
from minted_connect.models.deal import Deal, OrderStatus
from minted_connect.models.json_types import DIGITS, parse_digits
from minted_connect.models.masking import masked, masked_except_last_two
from minted_connect.models.order_status import is_failing
from minted_connect.response_info import HasResponse, ResponseInfo

__all__ = ["Completion", "Invoice", "InvoiceItem", "Order", "OrderChange", "OrderProgress", "Receipt", "Shipping"]


@attrs.frozen(slots=False, repr=False)
class Order(Deal):
    """A completed basket.

    Source: Complete Delivery (api-27307650, 2026-04-02), documented; that buy, sell and Get Orders return the same
    object is inferred.
    """

    @property
    def is_final(self) -> bool:
        """Whether the status will not change any more: completed or failed."""
        return self.status_name == OrderStatus.COMPLETED or self.is_failed

    @property
    def is_failed(self) -> bool:
        """Whether the status means that the order was cancelled, refused or refunded, in English or Turkish."""
        return is_failing(self.status_name)


@attrs.frozen
class OrderProgress:
    """Progress of an order: `orders.watch` compares it, and the journal keeps it across restarts."""

    status: OrderStatus | str
    is_final: bool = False
    """Whether the status will not change any more: completed or failed."""
    cargo_tracking_number: str | None = attrs.field(default=None, repr=masked)
    """Tracking number of the shipment; deliveries only."""
    estimated_arrival_date: date | None = None
    """Estimated arrival of the shipment; deliveries only."""
    paid_total: Decimal | None = attrs.field(default=None, eq=False)
    """Total of the order, for `Options.spending`; None in records of an older version. It is no progress: `==` and
    `orders.watch` ignore it."""
    currency_code: str | None = attrs.field(default=None, eq=False)
    """Currency of `paid_total`."""

    @classmethod
    def of(cls, order: Order) -> Self:
        """Return the progress of an order."""
        shipment = order.delivery
        return cls(
            order.status,
            order.is_final,
            shipment.cargo_tracking_number if shipment else None,
            shipment.estimated_arrival_date if shipment else None,
            order.paid_total,
            order.currency_code,
        )


@attrs.frozen
class OrderChange:
    """One change of an order, as yielded by `orders.watch`."""

    order: Order
    """The order after the change."""
    before: OrderProgress | None
    """Progress before the change; None if it was not known."""
    after: OrderProgress

    @property
    def changed(self) -> frozenset[str]:
        """Names of the changed attributes among `status`, `cargo_tracking_number` and `estimated_arrival_date`."""
        return frozenset(
            name
            for name in ("status", "cargo_tracking_number", "estimated_arrival_date")
            if getattr(self.before, name, None) != getattr(self.after, name)
        )


@attrs.frozen
class Shipping:
    """Shipping address of a Complete Delivery request.

    Inferred from E-Commerce Set Custom Address (api-8209448, 2024-09-17); `email` because the response has it (S16).
    """

    fullname: str = attrs.field(repr=masked)
    phone: str = attrs.field(repr=masked)
    city: str = attrs.field(repr=masked)
    county: str = attrs.field(repr=masked)
    district: str = attrs.field(repr=masked)
    address: str = attrs.field(repr=masked)
    tax_number: str = attrs.field(repr=masked_except_last_two)
    external_id: str | None = attrs.field(default=None, repr=masked)
    """The partner's own id of the address: 1 to 110 characters."""
    street: str | None = attrs.field(default=None, repr=masked)
    zipcode: str | None = attrs.field(default=None, repr=masked)
    """Up to 5 characters."""
    email: str | None = attrs.field(default=None, repr=masked)


@attrs.frozen(slots=False)
class Receipt(HasResponse):
    """Identifiers of an order and a link to its document. Inferred, with the least evidence of all responses (S19)."""

    order_id: int | None = attrs.field(default=None, metadata=DIGITS)
    guid: str | None = None
    increment_id: str | None = None
    external_id: str | None = None
    url: str | None = attrs.field(default=None, repr=masked)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""


@attrs.frozen(slots=False)
class InvoiceItem:
    """One line of an invoice. Inferred: a row of Partner Get Order."""

    product_id: int | None = attrs.field(default=None, metadata=DIGITS)
    product_name: str | None = None
    product_weight: Decimal | None = None
    """Weight of one piece in grams."""
    spot_price: Decimal | None = None
    """Money per gram."""
    price: Decimal | None = None
    """Money for one piece."""
    tax_rate: Decimal | None = None
    """Percent."""
    tax: Decimal | None = None
    """Money."""
    amount: Decimal | None = None
    """Pieces or grams: which one is not known, so fractions are accepted."""
    total: Decimal | None = None
    """Money."""
    currency_id: int | None = attrs.field(default=None, metadata=DIGITS)
    currency_rate: Decimal | None = None
    currency_total: Decimal | None = None


@attrs.frozen(slots=False)
class Invoice(HasResponse):
    """An order as returned by Get Order Invoice, with a link to the document.

    Source: api-38613148, 2026-06-25, partly documented: path and the keys `guid` and `order_code`. The other keys are
    those of the Partner order of the same example; `invoice_url` is assumed (S18).
    """

    guid: str
    order_code: str | None = None
    external_id: str | None = None
    channel: str | None = None
    tx_type: str | None = None
    price_token: str | None = attrs.field(default=None, repr=masked)
    price: Decimal | None = None
    """Money."""
    tax: Decimal | None = None
    """Money."""
    total: Decimal | None = None
    """Money."""
    currency_rate: Decimal | None = None
    currency_total: Decimal | None = None
    status_id: int | None = attrs.field(default=None, metadata=DIGITS)
    status_name: OrderStatus | str | None = None
    items: tuple[InvoiceItem, ...] = ()
    customer: Customer | None = None
    invoice_url: str | None = attrs.field(default=None, repr=masked)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""


@attrs.frozen(repr=False)
class Completion:
    """Result of a completion that the server executed: the basket was bought, sold or shipped.

    An order that differs from what was agreed to is returned all the same: see `differences`.
    """

    order: Order | None
    """The order; None if the server confirmed it with data that this library cannot read."""
    keys: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    """Known identifiers of the order, among `id`, `guid` and `increment_id`."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received."""
    reconciled: bool = False
    """Whether the order was found by a later read instead of in the response to the completion."""
    differences: tuple[str, ...] = ()
    """Differences between the order and what was agreed to, in words."""
    replayed: bool = False
    """Whether the reference had been completed before, so that this call sent no completion."""

    def __repr__(self) -> str:
        shown = repr(self.order) if self.order is not None else f"order {self.order_id}, unreadable"
        facts = [name for name in ("reconciled", "replayed") if getattr(self, name)]
        if self.differences:
            facts.append(f"{len(self.differences)} difference{'' if len(self.differences) == 1 else 's'}")
        return f"<{type(self).__name__}: {', '.join([shown, *facts])}>"

    def _repr_html_(self) -> str:
        from minted_connect.html import completion_to_html  # noqa: PLC0415

        return completion_to_html(self)

    @property
    def response(self) -> ResponseInfo | None:
        """The response that the order was read from, as `Order.response`; None without an order."""
        return None if self.order is None else self.order.response

    @property
    def order_id(self) -> int | None:
        """Id of the order; None if the response contains none that can be read.

        The purchase is confirmed even if this is None.
        """
        if self.order is not None:
            return self.order.id
        return parse_digits(self.keys.get("id"))

    def require_order(self) -> Order:
        """Return the order.

        Raises:
            OrderUnreadable: if the purchase is confirmed, but `order` is None. Do not buy again.
        """
        if self.order is not None:
            return self.order
        number = self.order_id
        known = "without a readable order id" if number is None else f"order {number}"
        raise OrderUnreadable(
            f"the purchase is confirmed ({known}), but this library cannot read the order: do not buy again; see "
            "`keys` and `raw` of the completion, or ask orders.get for it later",
            number,
        )
