"""What has to hold before anything is sent: the caller said what is agreed to, and the basket still shows it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, TypeVar

import attrs

from minted_connect import validation
from minted_connect.completion.order_match import is_order, lines
from minted_connect.core.api_client import ApiClient
from minted_connect.core.failures import attach_request
from minted_connect.core.pool import PoolKind, SendLimit
from minted_connect.core.request import OPERATIONS
from minted_connect.errors import (
    IntegrityError,
    InvalidInput,
    MintedConnectError,
    NotSent,
    PriceChanged,
    PriceFixExpired,
    ProtocolError,
    ServerError,
    TransportError,
)
from minted_connect.journal.accounts import account_of
from minted_connect.models import Basket, Intent, OrderKind, Shipping
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.orders import AsyncOrders

__all__ = ["address", "agreed_total", "check_basket", "new_intent", "pre_image", "refresh_basket"]

_T = TypeVar("_T")

_SHIPPING_REQUIRED: Final = ("fullname", "phone", "city", "county", "district", "address", "tax_number")
_SHIPPING_MAY_BE_EMPTY: Final = ("street", "zipcode")


def agreed_total(expected_total: Decimal | None, accept_price: str | None) -> Decimal | None:
    """Return the total agreed to, None for whatever it is by then; one of the two has to be said aloud.

    Raises:
        InvalidInput: both, neither, or a total that is no exact amount of money.
    """
    if accept_price is not None and accept_price != "current":
        raise InvalidInput.of("accept_price", "must be 'current' or left out")
    if (expected_total is None) == (accept_price is None):
        raise InvalidInput.of("expected_total", "give either expected_total or accept_price='current'")
    if expected_total is None:
        return None
    if not isinstance(expected_total, Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("expected_total", f"must be a Decimal, not {type(expected_total).__name__}")
    if not expected_total.is_finite() or expected_total < 0:
        raise InvalidInput.of("expected_total", "must be a finite amount from 0")
    return expected_total


def check_basket(basket: Basket, kind: OrderKind) -> None:
    """Check that a basket as last seen can be completed as `kind`.

    Raises:
        InvalidInput: it cannot.
    """
    if not isinstance(basket, Basket):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("basket", f"must be a Basket, not {type(basket).__name__}")
    if basket.kind not in {kind, None}:
        raise InvalidInput.of("basket", f"is a {basket.kind} basket: use complete.{basket.kind}")
    if not basket.items:
        raise InvalidInput.of("basket", "is empty")


def address(shipping: Shipping) -> dict[str, str]:
    """Return an address as it is sent.

    Raises:
        InvalidInput: a required part is missing, or a part cannot be sent.
    """
    if not isinstance(shipping, Shipping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("shipping", f"must be a Shipping, not {type(shipping).__name__}")
    sent: dict[str, str] = {}
    for name, value in attrs.asdict(shipping).items():
        if value is not None or name in _SHIPPING_REQUIRED:
            sent[name] = validation.text(f"shipping.{name}", value, empty=name in _SHIPPING_MAY_BE_EMPTY)
    return sent


async def refresh_basket(api: ApiClient, basket: Basket, agreed: Decimal | None) -> tuple[Basket, SendLimit]:
    """Read the basket again; return it, and the end of the time in which it may be completed at its price.

    Reading may re-price it, so the figures are compared after it. It also brings the digest state up to date, so that
    the completion normally goes out once.

    Raises:
        NotSent: it could not be read.
        InvalidInput: it is not open any more, empty, or holds other lines or another currency than the caller saw.
        PriceChanged: it costs something else than was agreed to.
        PriceFixExpired: too few seconds are left of its price lock, or none is shown.
        IntegrityError: the answer is about another customer, another basket or another kind.
    """
    baskets = AsyncBaskets(api.with_pool(PoolKind.PREFLIGHT))
    fresh = await _unsent(baskets.get_active(basket.customer.external_id, cart_token=basket.token))
    if fresh is None:
        raise InvalidInput.of("basket", "is not open any more: it was completed, cleared or replaced")
    if fresh.kind != basket.kind or is_order(fresh.raw):
        error = IntegrityError(f"the answer is not about a {basket.kind} basket", ("data.type: is not the basket's",))
        raise attach_request(error, OPERATIONS["baskets.get_active"].info)
    if not fresh.items:
        raise InvalidInput.of("basket", "is empty")
    # Whoever accepts any price, or the same one, agreed to what was seen, not to what somebody made of it since.
    if lines(fresh) != lines(basket):
        raise InvalidInput.of("basket", "was changed since it was read: read it again, and look at its lines")
    if fresh.currency_code != basket.currency_code:
        raise InvalidInput.of("basket", "is in another currency than when it was read: read it again")
    if agreed is not None and fresh.paid_total != agreed:
        raise PriceChanged(
            f"the basket costs {fresh.paid_total} {fresh.currency_code} now; {agreed} was agreed to",
            agreed,
            fresh.paid_total,
        )
    # A server that is slow lately would carry it out only after the lock.
    margin = max(api.completion_policy.price_fix_margin, api.state.server_stats.p99_latency)
    left = fresh.price_fix.seconds_left if fresh.price_fix is not None else None
    if left is None or left < margin:
        raise PriceFixExpired(
            f"the price lock has {left or 0:.0f} s left, and {margin:.0f} s are needed: read the basket again"
        )
    # The server's clock is known to the second, so the limit by it is a second later than the one by ours.
    send_before = api.server_time() + timedelta(seconds=left - margin + 1)
    return fresh, SendLimit(api.elapsed() + left - margin, send_before)


async def pre_image(api: ApiClient, basket: Basket, kind: OrderKind) -> tuple[int, ...]:
    """Return the numbers of the customer's latest orders of that kind, if the policy wants them.

    Raises:
        NotSent: they could not be read, and the policy requires them.
    """
    wanted = api.completion_policy.pre_image
    if wanted == "off":
        return ()
    customer = basket.customer.external_id
    try:
        orders = AsyncOrders(api.with_pool(PoolKind.PREFLIGHT))
        page = await _unsent(orders.page(customer_id=customer, tx_type=kind, per_page=30))
    except MintedConnectError as error:
        if wanted == "try":
            return ()
        raise NotSent(f"the orders before this one could not be read: {error}") from error
    return tuple(order.id for order in page)


async def _unsent(read: Awaitable[_T]) -> _T:
    """Await a read before the completion: where it fails for whatever reason, nothing of that was sent."""
    try:
        return await read
    except IntegrityError:
        raise
    except (TransportError, ServerError, ProtocolError) as error:
        # A timeout of a completion is either NotSent or OutcomeUnknown, never something in between.
        raise NotSent(f"nothing was completed: {error}") from error


def new_intent(
    basket: Basket, kind: OrderKind, api: ApiClient, known_orders: tuple[int, ...], send_before: datetime
) -> Intent:
    """Build the record of completing this basket: every key it could be found by later."""
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
    )
