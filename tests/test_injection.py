"""Arguments cannot inject headers, paths or fields: one request, with the expected path, query, body and headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minted_connect import (
    AsyncMintedConnect,
    CompletionPolicy,
    ConfigurationError,
    InvalidInput,
    MintedConnect,
    MintedConnectError,
    Options,
    RetryPolicy,
)
from minted_connect.models import BasketKey
from tests.support.raw_server import Connection, RawServer

ALLOWED_HEADERS = {
    *("host", "accept", "accept-encoding", "accept-language", "user-agent", "api-version", "x-client-id"),
    *("content-type", "content-length"),
}
nasty = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from("\r\n\0\t /\\?#&=%.:@;,\"'{}[]<>+ü\u202e😀A0"), max_size=40),
    st.sampled_from(
        [
            "x\r\nX-Evil: yes",
            "x HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /",
            "../../partner/other",
            "%2e%2e%2fadmin",
            "..;/",
            "a/../b",
            "x?external_customer_id=other",
            "x&external_customer_id=other",
            "x#fragment",
            '","external_id":"other',
            "{}",
            "//evil.example/",
            "%0d%0aX-Evil:%20yes",
            "\u2028X-Evil: yes",
            "\udc0a",
        ]
    ),
)


def in_path(first: str, _body: bytes, given: str) -> None:
    target = first.split(" ")[1]
    assert target.startswith("/partner/customer/")
    assert "?" not in target
    assert unquote(target.removeprefix("/partner/customer/")) == given
    assert "/" not in target.removeprefix("/partner/customer/")


def in_query(name: str, path: str) -> Callable[[str, bytes, str], None]:
    def check(first: str, _body: bytes, given: str) -> None:
        parts = urlsplit(first.split(" ")[1])
        assert parts.path == path
        assert [value for key, value in parse_qsl(parts.query, keep_blank_values=True) if key == name] == [given]

    return check


def in_body(name: str, path: str) -> Callable[[str, bytes, str], None]:
    def check(first: str, body: bytes, given: str) -> None:
        assert first.split(" ")[1] == path
        pairs = json.loads(body, object_pairs_hook=list)
        assert [value for key, value in pairs if key == name] == [given]

    return check


BASKET = "/partner/walletable/basket"
Call = Callable[[AsyncMintedConnect, str], Awaitable[Any]]
ARGUMENTS: dict[str, tuple[Call, Callable[[str, bytes, str], None]]] = {
    "customers.get": (lambda m, text: m.customers.get(text), in_path),
    "customers.update": (lambda m, text: m.customers.update(text, firstname="Ada"), in_path),
    "baskets.get_active": (
        lambda m, text: m.baskets.get_active(text),
        in_query("external_customer_id", BASKET),
    ),
    "cart_token": (
        lambda m, text: m.baskets.get_active("customer-1", cart_token=text),
        in_query("cart_token", BASKET),
    ),
    "wallet.balance": (
        lambda m, text: m.wallet.balance(text),
        in_query("external_customer_id", "/partner/walletable/balance"),
    ),
    "sku": (
        lambda m, text: m.baskets.update_item(BasketKey("customer-1", "T" * 32), sku=text, qty=1),
        in_body("sku", BASKET),
    ),
    "customer of a change": (
        lambda m, text: m.baskets.clear(BasketKey(text, "T" * 32)),
        in_body("external_customer_id", f"{BASKET}/empty"),
    ),
    "firstname": (
        lambda m, text: m.customers.create("customer-1", firstname=text),
        in_body("firstname", "/partner/customer"),
    ),
    "raw query": (
        lambda m, text: m.request("GET", "/partner/x", query={"q": text}),
        in_query("q", "/partner/x"),
    ),
    "raw body": (
        lambda m, text: m.request("PATCH", "/partner/x", json={"q": text}),
        in_body("q", "/partner/x"),
    ),
}


@pytest.mark.requirement(35)
@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(ARGUMENTS)), nasty)
@example("customers.get", "x\r\nX-Evil: yes")
@example("baskets.get_active", "x\r\nX-Evil: yes")
@example("customers.get", "..")
def test_argument_arrives_unchanged_in_its_place_or_is_refused(argument: str, given: str):
    """Check that an argument is refused before sending, or arrives unchanged in its place and nowhere else."""
    call, check = ARGUMENTS[argument]

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope(None, 403)

    async def make_call() -> None:
        async with (
            RawServer(script) as server,
            AsyncMintedConnect("u", "p", base_url=server.url, retry=RetryPolicy.none()) as minted,
        ):
            with pytest.raises(MintedConnectError) as caught:
                await call(minted, given)
            if isinstance(caught.value, InvalidInput):
                assert server.requests == []
                return
        [(first, headers, body)] = server.requests
        assert set(headers) <= ALLOWED_HEADERS
        assert first.count(" ") == 2
        check(first, body, given)

    asyncio.run(make_call(), debug=False)


@pytest.mark.requirement(35)
@pytest.mark.parametrize("given", ["x\r\nX-Evil: yes", "x\nX-Evil: yes", "x\rX: y", "x\0", "ü", " x", "x ", "", "\x7f"])
@pytest.mark.parametrize("cls", [AsyncMintedConnect, MintedConnect])
@pytest.mark.parametrize(
    "settings",
    [
        lambda text: {"client_id": text},
        lambda text: {"language": text},
        lambda text: {"options": Options(user_agent=text)},
        lambda text: {"options": Options(completion=CompletionPolicy(idempotency_header=text))},
    ],
    ids=["client_id", "language", "user_agent", "idempotency_header"],
)
def test_setting_with_invalid_header_value_is_refused(cls, settings, given):
    with pytest.raises(ConfigurationError):
        cls("u", "p", **settings(given))
    if "options" not in settings("x"):
        with pytest.raises(ConfigurationError):
            cls("u", "p").with_options(**settings(given))
