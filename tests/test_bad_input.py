"""Bad input is a typed error that names the field and the rule, and nothing is sent."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    BasketKey,
    ConfigurationError,
    Credentials,
    InvalidInput,
    Limits,
    NotFound,
    Options,
    RateLimit,
    RetryPolicy,
    Secret,
    Timeouts,
    ValidationFailed,
)
from minted_connect.sandbox import Sandbox

TOKEN = "T" * 32
KEY = BasketKey("customer-1", TOKEN)
LONG = "x" * 111

# (field, what is called); `m` is the client.
REFUSED: list[tuple[str, Any]] = [
    ("external_id", lambda m: m.customers.create("")),
    ("external_id", lambda m: m.customers.create("ab")),
    ("external_id", lambda m: m.customers.create("x" * 41)),
    ("external_id", lambda m: m.customers.create("has space")),
    ("external_id", lambda m: m.customers.create("a\r\nX-Evil: 1")),
    ("external_id", lambda m: m.customers.create(17)),
    ("firstname", lambda m: m.customers.create("customer-1", firstname="Al")),
    ("lastname", lambda m: m.customers.create("customer-1", lastname="x" * 41)),
    ("middlename", lambda m: m.customers.create("customer-1", middlename="J.")),
    ("email", lambda m: m.customers.create("customer-1", email="")),
    ("birthdate", lambda m: m.customers.create("customer-1", birthdate="1970-01-31")),
    ("birthdate", lambda m: m.customers.create("customer-1", birthdate=datetime(1970, 1, 31))),
    ("tax_office", lambda m: m.customers.create("customer-1", tax_office="x")),
    ("identity_number", lambda m: m.customers.create("customer-1", identity_number="12")),
    ("external_customer_id", lambda m: m.customers.get("")),
    ("external_customer_id", lambda m: m.customers.get(LONG)),
    ("id", lambda m: m.customers.get("..")),
    ("id", lambda m: m.customers.remove(".")),
    ("update", lambda m: m.customers.update("customer-1")),
    ("firstname", lambda m: m.customers.update("customer-1", firstname=7)),
    ("page", lambda m: m.products.page(page=0)),
    ("page", lambda m: m.products.page(page=1.0)),
    ("per_page", lambda m: m.products.page(per_page=4)),
    ("per_page", lambda m: m.products.page(per_page=101)),
    ("per_page", lambda m: m.products.page(per_page=True)),
    ("external_customer_id", lambda m: m.baskets.get_active("")),
    ("cart_token", lambda m: m.baskets.get_active("customer-1", cart_token="short")),
    ("sku", lambda m: m.baskets.add_item("customer-1", sku="")),
    ("qty", lambda m: m.baskets.add_item("customer-1", sku="S", qty=0)),
    ("qty", lambda m: m.baskets.add_item("customer-1", sku="S", qty=-1)),
    ("qty", lambda m: m.baskets.add_item("customer-1", sku="S", qty=1.0)),
    ("qty", lambda m: m.baskets.add_item("customer-1", sku="S", qty=True)),
    ("qty", lambda m: m.baskets.add_item("customer-1", sku="S", qty=Decimal(1))),
    ("qty", lambda m: m.baskets.add_item("customer-1", sku="S", qty="1")),
    ("type", lambda m: m.baskets.add_item("customer-1", sku="S", type="gift")),
    ("cart_token", lambda m: m.baskets.add_item(BasketKey("customer-1", "short"), sku="S")),
    ("qty", lambda m: m.baskets.update_item(KEY, sku="S", qty=0)),
    ("sku", lambda m: m.baskets.update_item(KEY, sku=None, qty=1)),
    ("sku", lambda m: m.baskets.delete_item(KEY, sku=" ")),
    ("cart_token", lambda m: m.baskets.clear(BasketKey("customer-1", "x" * 33))),
    ("external_customer_id", lambda m: m.baskets.clear(BasketKey(LONG, TOKEN))),
    ("external_customer_id", lambda m: m.wallet.balance("")),
    ("metals", lambda m: m.wallet.balance("customer-1", metals=[])),
    ("metals", lambda m: m.wallet.balance("customer-1", metals=["gold,silver"])),
    ("metals", lambda m: m.wallet.balance("customer-1", metals=5)),
    ("tx_type", lambda m: m.orders.page(tx_type=5)),
    ("tx_type", lambda m: m.orders.page(tx_type="gift")),
    ("status", lambda m: m.orders.page(status="Pending")),
    ("sort_by", lambda m: m.orders.page(sort_by="guid")),
    ("sort_type", lambda m: m.orders.page(sort_type="up")),
    ("deliverable", lambda m: m.wallet.balance("customer-1", deliverable="yes")),
    ("metals", lambda m: m.rates.current(metals="")),
    ("metal", lambda m: m.rates.history()),
    ("metal", lambda m: m.rates.history(metal="gold", currency_id=1000013)),
    ("interval", lambda m: m.rates.history(metal="gold", interval="year")),
    ("end", lambda m: m.rates.history(metal="gold", start=date(2026, 1, 1))),
    ("start", lambda m: m.rates.history(metal="gold", end=date(2026, 1, 1))),
    ("end", lambda m: m.rates.history(metal="gold", start=date(2026, 1, 2), end=date(2026, 1, 1))),
    ("start", lambda m: m.rates.history(metal="gold", start="2026-01-01", end=date(2026, 1, 1))),
    ("per_page", lambda m: m.orders.page(per_page=31)),
    ("page", lambda m: m.orders.page(page=0)),
    ("end", lambda m: m.orders.page(start=date(2026, 1, 1))),
    ("method", lambda m: m.request("BREW", "/coffee")),
    ("path", lambda m: m.request("GET", "partner/x")),
    ("path", lambda m: m.request("GET", "/partner/../admin")),
    ("path", lambda m: m.request("GET", "/partner/%2e%2e/admin")),
    ("path", lambda m: m.request("GET", "/partner?x=1")),
    ("path", lambda m: m.request("GET", "/a\r\nHost: evil")),
    ("path", lambda m: m.request("GET", "//evil.example/x")),
    ("path", lambda m: m.request("GET", "/ü")),
]


@pytest.mark.parametrize(("field", "call"), REFUSED, ids=[f"{n}-{field}" for n, (field, _) in enumerate(REFUSED)])
async def test_refused_before_anything_is_sent(minted, sandbox: Sandbox, field, call):
    with pytest.raises(InvalidInput) as caught:
        await call(minted)
    assert caught.value.field == field
    assert caught.value.rule
    assert isinstance(caught.value, ValueError)
    assert len(sandbox.requests) == 0


async def test_inferred_limits_can_be_switched_off(connect, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(limits=None))
    for call in (
        lambda: minted.customers.create("has space"),
        lambda: minted.customers.create("customer-1", firstname="Al"),
        lambda: minted.baskets.clear(BasketKey("customer-1", "short")),
        lambda: minted.products.page(per_page=1000),
    ):
        with pytest.raises((ValidationFailed, NotFound)):
            await call()
    with pytest.raises(InvalidInput, match="qty"):
        await minted.baskets.add_item("customer-1", sku="S", qty=0)


async def test_one_limit_can_be_moved(connect, sandbox: Sandbox):
    limits = Limits(name=(1, 40))
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(limits=limits))
    with pytest.raises(ValidationFailed) as caught:
        await minted.customers.create("customer-1", firstname="Al")
    assert set(caught.value.fields) == {"firstname"}


@pytest.mark.parametrize("verb", ["POST", "post", "GET"])
@pytest.mark.parametrize(
    "path",
    [
        "/partner/walletable/complete/buy",
        "/partner/walletable/complete/sell/",
        "/partner/walletable/complete/delivery",
        "/partner/walletable/COMPLETE/buy",
        "/partner/walletable/complete%2Fbuy",
        "/partner/walletable/%63omplete/buy",
        "/v2/pay",
    ],
)
async def test_the_escape_hatch_does_not_complete(connect, sandbox: Sandbox, verb, path):
    options = Options(paths={"complete.buy": "/v2/pay"})
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
    with pytest.raises(ConfigurationError, match="complete"):
        await minted.request(verb, path, json={})
    assert len(sandbox.requests) == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: AsyncMintedConnect("", "p"),
        lambda: AsyncMintedConnect("u", ""),
        lambda: AsyncMintedConnect("u", Secret("")),
        lambda: AsyncMintedConnect("u", "p", client_id="web\r\nX: 1"),
        lambda: AsyncMintedConnect("u", "p", language=""),
        lambda: AsyncMintedConnect("u", "p", language="tür"),
        lambda: AsyncMintedConnect("u", "p", options=Options(paths={"nope": "/x"})),
        lambda: AsyncMintedConnect("u", "p").with_options(deadline=0),
        lambda: AsyncMintedConnect("u", "p").with_options(deadline=float("inf")),
        lambda: AsyncMintedConnect("u", "p", proxy="127.0.0.1:3128"),
        lambda: AsyncMintedConnect("u", "p", proxy="socks5://127.0.0.1:3128"),
        lambda: AsyncMintedConnect("u", "p", proxy="http://[broken"),
        lambda: Timeouts(read=0),
        lambda: Timeouts(connect=-1),
        lambda: Timeouts(total=float("inf")),
        lambda: Timeouts(pool=float("nan")),
        lambda: Timeouts(pool=True),
        lambda: Timeouts(pool=None),
        lambda: RetryPolicy(reads=0),
        lambda: RetryPolicy(budget=-1),
        lambda: RateLimit(rate=0),
        lambda: Options(digest_policy="ancient"),
        lambda: Options(user_agent="a\nb"),
        lambda: Options(pool_size=0),
    ],
)
def test_settings_that_cannot_work(build):
    with pytest.raises(ConfigurationError):
        build()


def test_credentials_show_nothing():
    credentials = Credentials("canary-user", "canary-password")
    client = AsyncMintedConnect("canary-user", "canary-password")
    assert "canary" not in f"{credentials!r}{credentials}{client!r}{client._caller.settings!r}"
    assert credentials.password.reveal() == "canary-password"
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    with pytest.raises(TypeError, match="not pickled"):
        import pickle

        pickle.dumps(credentials)


def test_from_env(monkeypatch, tmp_path):
    for name in ("USERNAME", "PASSWORD", "BASE_URL", "JOURNAL"):
        monkeypatch.delenv(f"MINTED_CONNECT_{name}", raising=False)
    with pytest.raises(ConfigurationError, match="MINTED_CONNECT_USERNAME"):
        AsyncMintedConnect.from_env()
    monkeypatch.setenv("MINTED_CONNECT_USERNAME", "u")
    with pytest.raises(ConfigurationError, match="MINTED_CONNECT_PASSWORD"):
        AsyncMintedConnect.from_env()
    monkeypatch.setenv("MINTED_CONNECT_PASSWORD", "p")
    assert "staging" in repr(AsyncMintedConnect.from_env())
    monkeypatch.setenv("MINTED_CONNECT_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MINTED_CONNECT_JOURNAL", str(tmp_path / "journal.db"))
    assert "http://127.0.0.1:1" in repr(AsyncMintedConnect.from_env())
