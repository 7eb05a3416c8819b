"""Checks before a completion is sent: the arguments, and the basket as the server shows it now.

The limit on how late it may be sent is made here (`SendLimit`), and enforced by `Execution` once the intent is
written, and by `core.pool.RequestProgress.mark_sent`.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Final, TypeVar

import attrs

from minted_connect import validation
from minted_connect.completion.agreed_total import AgreedTotal
from minted_connect.completion.in_flight import Reference
from minted_connect.completion.order_match import is_order, pieces_by_sku
from minted_connect.core.api_client import ApiClient
from minted_connect.core.pool import PoolKind, SendLimit
from minted_connect.core.request import OPERATIONS
from minted_connect.core.response import make_integrity_error
from minted_connect.errors import (
    IntegrityError,
    InvalidInput,
    MintedConnectError,
    NotSent,
    PriceFixExpired,
    ProtocolError,
    ServerError,
    TransportError,
)
from minted_connect.journal.accounts import account_of
from minted_connect.models import Basket, Intent, OrderKind, Shipping
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.orders import AsyncOrders

__all__ = [
    "build_intent",
    "check_basket",
    "recent_order_ids",
    "refresh_basket",
    "serialize_shipping",
]

_T = TypeVar("_T")

_SHIPPING_REQUIRED: Final = ("fullname", "phone", "city", "county", "district", "address", "tax_number")
_SHIPPING_MAY_BE_EMPTY: Final = ("street", "zipcode")


def check_basket(basket: Basket, kind: OrderKind) -> None:
    """Check that a basket is of this kind and not empty.

    Raises:
        InvalidInput: if `basket` is not a Basket, is of another kind or is empty.
    """
    if not isinstance(basket, Basket):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("basket", f"must be a Basket, not {type(basket).__name__}")
    if basket.kind not in {kind, None}:
        raise InvalidInput.of("basket", f"is a {basket.kind} basket: use complete.{basket.kind}")
    if not basket.items:
        raise InvalidInput.of("basket", "is empty")


def serialize_shipping(shipping: Shipping) -> dict[str, str]:
    """Return a shipping address as it is sent.

    Raises:
        InvalidInput: if a required field is missing, or a field cannot be sent.
    """
    if not isinstance(shipping, Shipping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("shipping", f"must be a Shipping, not {type(shipping).__name__}")
    body: dict[str, str] = {}
    for name, value in attrs.asdict(shipping).items():
        if value is not None or name in _SHIPPING_REQUIRED:
            body[name] = validation.text(f"shipping.{name}", value, empty=name in _SHIPPING_MAY_BE_EMPTY)
    return body


async def refresh_basket(api: ApiClient, basket: Basket, agreed: AgreedTotal) -> tuple[Basket, SendLimit]:
    """Read the basket again; return it with the time until which it may be completed at its price.

    The read may change the price, so the total is compared after it. The read also refreshes the digest nonce, so that
    the completion is normally sent without a challenge.

    Raises:
        NotSent: if the basket could not be read because of a transport error, a 5xx or an unusable response.
        APIError: if the server refused the read.
        InvalidInput: if the basket is no longer open, is empty, or has other items or another currency than before.
        PriceChanged: if the caller did not agree to the basket's total.
        PriceFixExpired: if the basket has no price lock, or its price lock has too few seconds left.
        IntegrityError: if the response belongs to another customer or basket, or is of another kind.
    """
    baskets = AsyncBaskets(api.with_pool(PoolKind.PREFLIGHT))
    fresh = await _read_before_sending(baskets.get_active(basket.customer.external_id, cart_token=basket.token))
    if fresh is None:
        problem = "is no longer open: it was completed, cleared or replaced, or this read is behind the latest change"
        raise InvalidInput.of("basket", problem)
    if fresh.kind != basket.kind or is_order(fresh.raw):
        problem = f"data.type: is not {basket.kind}, or an order"
        raise make_integrity_error((problem,), OPERATIONS["baskets.get_active"].info)
    if not fresh.items:
        raise InvalidInput.of("basket", "is empty")
    # The caller agreed to the items of the basket that was passed, also with `accept_price` or at an equal total.
    if pieces_by_sku(fresh) != pieces_by_sku(basket):
        problem = "was changed since it was read, or this read is behind: read it again and check its items"
        raise InvalidInput.of("basket", problem)
    if fresh.currency_code != basket.currency_code:
        raise InvalidInput.of("basket", "is in another currency than when it was read: read it again")
    agreed.check(fresh.paid_total, fresh.currency_code)
    # If the server is slow, the lock could expire before it executes the completion.
    margin = max(api.completion_policy.price_fix_margin, api.state.server_stats.p99_latency)
    left = fresh.price_fix.seconds_left if fresh.price_fix is not None else None
    if left is None or left < margin:
        raise PriceFixExpired(
            f"the price lock has {left or 0:.0f} s left, {margin:.0f} s are required: read the basket again"
        )
    # The server's clock is known to the second only, so the limit by that clock is one second later.
    send_before = api.server_time() + timedelta(seconds=left - margin + 1)
    return fresh, SendLimit(api.elapsed() + left - margin, send_before)


async def recent_order_ids(api: ApiClient, basket: Basket, kind: OrderKind) -> tuple[int, ...]:
    """Return the numbers of the customer's latest orders of this kind, empty if `CompletionPolicy.pre_image` is off.

    Raises:
        NotSent: if the orders could not be read and the policy requires them.
    """
    mode = api.completion_policy.pre_image
    if mode == "off":
        return ()
    customer = basket.customer.external_id
    try:
        orders = AsyncOrders(api.with_pool(PoolKind.PREFLIGHT))
        page = await _read_before_sending(orders.page(customer_id=customer, tx_type=kind, per_page=30))
    except MintedConnectError as error:
        if mode == "try":
            return ()
        raise NotSent(f"the latest orders could not be read (CompletionPolicy.pre_image): {error}") from error
    unreadable = (row.id for row in page.unreadable)
    return (*(order.id for order in page), *(number for number in unreadable if number is not None))


async def _read_before_sending(read: Awaitable[_T]) -> _T:
    """Await a read that precedes a completion; if it fails, the completion was not sent."""
    try:
        return await read
    except IntegrityError:
        raise
    except (TransportError, ServerError, ProtocolError) as error:
        # A completion that times out raises NotSent or OutcomeUnknown, never a plain timeout.
        raise NotSent(f"the completion was not sent: {error}") from error


def build_intent(
    basket: Basket,
    kind: OrderKind,
    api: ApiClient,
    known_orders: tuple[int, ...],
    send_before: datetime,
    reference: Reference | None = None,
) -> Intent:
    """Build the intent of a completion, with every key by which its order can be found later."""
    owner = account_of(api)
    return Intent(
        id=str(uuid.uuid4()),
        kind=kind,
        external_customer_id=basket.customer.external_id,
        cart_token=basket.token,
        basket_id=basket.id,
        guid=basket.guid,
        increment_id=basket.increment_id,
        price_token=basket.price_token,
        paid_total=basket.paid_total,
        currency_code=basket.currency_code,
        items=tuple((item.sku, item.amount) for item in basket.items),
        created_at=api.clock.wall(),
        clock_offset=round(api.state.server_stats.clock_skew.total_seconds()),
        known_orders=known_orders,
        send_before=send_before,
        server=owner.server,
        account=owner.account,
        reference=reference.key if reference is not None else None,
        terms=reference.terms if reference is not None else None,
    )
