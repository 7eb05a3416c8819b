"""A fake `ApiClient`: the real one, but with a small fake server in place of its transport."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Self

import attrs

from minted_connect.clock import ElapsedTime
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.completion.settlement import Settlement
from minted_connect.config import CompletionPolicy, Options, RetryPolicy
from minted_connect.core import converter
from minted_connect.core.api_client import ApiClient
from minted_connect.core.locks import KeyedLocks
from minted_connect.core.pool import PoolKind, RequestProgress, SendLimit
from minted_connect.core.request import Request
from minted_connect.core.response import Response
from minted_connect.core.server_stats import ServerStats
from minted_connect.core.state import ClientSettings
from minted_connect.errors import NotFound, Phase
from minted_connect.journal.accounts import account_of
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Completion, Intent, IntentState, OrderKind, Shipping
from minted_connect.sandbox import ManualClock

CUSTOMER = "ea0982a7-4fd3-43ff-a682-cae5870d1eac"
TOKEN = "SKTHzfR4HnKXmcM4XeHfFRUPq6n3jJGL"
TOTAL = Decimal("1852.60")
SERVER = "http://127.0.0.1:1"
ACCOUNT = "0" * 64
SHIPPING = Shipping(
    fullname="Ahmet Özer",
    phone="+905550001122",
    city="İstanbul",
    county="Çekmeköy",
    district="Alemdağ",
    address="No:1 D:2",
    tax_number="12345678910",
)


def basket_json(**changes: Any) -> dict[str, Any]:
    """Return the documented basket of api-26503573, as decoded JSON."""
    zeros = (
        "tax payment_cost delivery_cost insurance_price conversion_price market_commission minted_markup_price "
        "silver_craftsmanship"
    )
    return {
        "pricefix": {"remaining": 201, "nextUpdate": "2026-02-20T15:31:57+03:00"},
        "id": 10984,
        "guid": "2695BF07-6963-40FD-9777-21670640745B",
        "order_creation_status": "basket",
        "external_id": None,
        "increment_id": "59047701704",
        "token": TOKEN,
        "price_token": "I50OIXArzMS9PFK0t7BdLYrP6uHiS0GF",
        "type": "buy",
        **dict.fromkeys(zeros.split(), 0),
        "price": Decimal("1777.02"),
        "total": Decimal("1777.02"),
        "paid_total": Decimal("1852.6"),
        "charge_fee": Decimal("31.1"),
        "charge_fee_rate": Decimal("1.75"),
        "minting_fee": Decimal("35.55"),
        "storage_fee": Decimal("5.33"),
        "storage_fee_rate": Decimal("0.3"),
        "charges_vat": Decimal("3.6"),
        "vat_rate": 5,
        "currency_code": "AED",
        "status_id": 1,
        "status_name": "Created",
        "customer": {
            "external_id": CUSTOMER,
            "firstname": "Brant",
            "middlename": "",
            "lastname": "Ankunding",
            "fullname": "Brant Ankunding",
            "email": "brant.ankunding@example.com",
            "phone": "+905111111111",
            "gender": "M",
            "identity_number": "12345678910",
            "tax_office": None,
            "birthdate": "1970-01-31",
            "account_type": "person",
        },
        "shippingaddress": None,
        "billingaddress": None,
        "payment": None,
        "delivery": None,
        "order_at": "2026-02-20T12:27:57.000000Z",
        "items": [
            {
                "item_currency_id": 1000013,
                "item_currency_name": "Dirham Gold",
                "product_id": 3000099,
                "sku": "MNTBAE0001",
                "product_name": "Minted 1 g 999.9 Gold Bar",
                "product_weight": 1,
                "price": Decimal("592.34"),
                "tax_rate": 0,
                "tax": 0,
                "amount": 3,
                "total": Decimal("1777.02"),
                "product_images": [],
                "prices": [{"id": 7, "name": "Minting Fee", "price": Decimal("11.85")}],
            }
        ],
        "total_amount": 3,
        "currency": "Dirham Gold",
        "tx_type": "oneoffpurchase",
        **changes,
    }


def order_json(**changes: Any) -> dict[str, Any]:
    """Return the order that this basket becomes."""
    made = {
        "order_creation_status": "order",
        "type": "walletable_ecommerce",
        "status_id": 2,
        "status_name": "Pending",
        **changes,
    }
    order = basket_json(**made)
    del order["pricefix"]
    return order


def order_of(customer: str, **changes: Any) -> dict[str, Any]:
    """Return an order of another customer."""
    order = order_json(**changes)
    return {**order, "customer": {**order["customer"], "external_id": customer}}


def page_json(rows: list[Any], *, number: int = 1, last: int = 1) -> dict[str, Any]:
    return {"current_page": number, "data": rows, "last_page": last, "per_page": 30, "total": len(rows)}


def intent_of(**changes: Any) -> Intent:
    values: dict[str, Any] = {
        "id": "0b9c1f2e-0000-4000-8000-000000000001",
        "kind": OrderKind.BUY,
        "external_customer_id": CUSTOMER,
        "cart_token": TOKEN,
        "basket_id": 10984,
        "guid": "2695BF07-6963-40FD-9777-21670640745B",
        "increment_id": "59047701704",
        "price_token": "I50OIXArzMS9PFK0t7BdLYrP6uHiS0GF",
        "paid_total": TOTAL,
        "currency_code": "AED",
        "items": (("MNTBAE0001", 3),),
        "created_at": datetime(2026, 2, 20, 12, 28, 30, tzinfo=UTC),
        "state": IntentState.UNKNOWN,
        **changes,
    }
    return Intent(**values)


class FakeApiClient(ApiClient):
    """An `ApiClient` with a fake server: one response for each operation.

    A response is data, an exception to raise, or a function of the request. The function for `complete` also gets the
    progress, because the phase that the request reached decides about its outcome.
    """

    def __init__(self, *, loopback: bool = True, **options: Any) -> None:
        self.clock = ManualClock(auto_advance=True)
        self.settings = ClientSettings(retry=RetryPolicy.none(), options=Options(clock=self.clock, **options))
        transport = SimpleNamespace(
            is_loopback=loopback, check_usable=lambda: None, base_url=SERVER, account=ACCOUNT, ended=None
        )
        self.state = SimpleNamespace(  # type: ignore[assignment]
            transport=transport,
            server_stats=ServerStats(),
            locks=KeyedLocks(self.clock),
            elapsed=ElapsedTime(self.clock),
            lag_source=None,
            on_structure=None,
        )
        self._held_lock = None
        self.basket: Any = basket_json()
        self.orders: Any = []
        self.clear: Any = NotFound("no such basket", 404)
        self.complete: Any = self.execute
        self.sent: list[Request] = []
        self.not_after: list[float | None] = []
        self.deadlines: list[float | None] = []
        self.date = "Fri, 20 Feb 2026 12:27:57 GMT"

    def with_settings(self, settings: ClientSettings) -> Self:
        """Record the deadline of the settings, and return the same client."""
        self.deadlines.append(settings.deadline)
        return self

    def with_pool(self, pool: PoolKind) -> Self:
        return self

    def with_policy(self, policy: CompletionPolicy) -> Self:
        """Change the completion policy, and return the same client."""
        options = attrs.evolve(self.settings.options, completion=policy)
        self.settings = attrs.evolve(self.settings, options=options)
        return self

    def execute(self, request: Request, progress: RequestProgress | None = None) -> dict[str, Any]:
        """Complete the basket, as the server does."""
        changes = {"tx_type": "sell"} if request.operation.name == "complete.sell" else {}
        order = {**self.basket, **order_json(), "tx_type": self.basket["tx_type"], **changes}
        order.pop("pricefix", None)
        self.basket, self.orders = None, [order, *self.orders]
        return order

    async def exchange(
        self,
        request: Request,
        *,
        not_after: SendLimit | None = None,
        progress: RequestProgress | None = None,
        bypass_limits: bool = False,
    ) -> Response:
        self.sent.append(request)
        name = request.operation.name
        response = {
            "baskets.get_active": self.basket,
            "orders.page": self.orders,
            "baskets.clear": self.clear,
        }.get(name, self.complete)
        if progress is not None:
            self.not_after.append(None if not_after is None else not_after.elapsed)
            progress.phase = Phase.RESPONDED
        if callable(response) and not isinstance(response, Exception):
            response = response(request, progress) if progress is not None else response(request)
        if hasattr(response, "__await__"):
            response = await response
        if isinstance(response, BaseException):
            raise response
        if name == "orders.page" and isinstance(response, list):
            response = page_json(response)
        if not self.state.server_stats.has_date:
            self.state.server_stats.record_date(self.date, self.clock.wall(), self.elapsed())
        # The server's clock stands still at the second at which ManualClock starts.
        return Response(200, {"Date": self.date}, data=response)

    def count(self, name: str) -> int:
        return sum(request.operation.name == name for request in self.sent)

    def seen_basket(self, **changes: Any) -> Basket:
        """Return the basket as the caller last read it."""
        return converter.structure(basket_json(**changes), Basket, elapsed=self.clock.monotonic)

    def ago(self, **delta: float) -> str:
        """Return a time in the past as the server formats it."""
        return (self.clock.wall() - timedelta(**delta)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


async def reconcile(api: FakeApiClient, intent: Intent) -> Completion:
    """Write an intent into a new journal, and reconcile it."""
    journal = MemoryJournal()
    await journal.prepare(intent)
    return await completions_of(api, journal).reconcile(intent)


def completions_of(api: Any, journal: Any) -> AsyncCompletions:
    """Return completions that use this API client and this journal."""
    return AsyncCompletions(api, Settlement(journal, account_of(api)))
