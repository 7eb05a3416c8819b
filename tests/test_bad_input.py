"""Invalid arguments raise a typed error that names the field and the rule, and no request is sent."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import anyio
import anyio.to_thread
import attrs
import pytest

from minted_connect import (
    AsyncMintedConnect,
    AuthenticationFailed,
    Basket,
    BasketKey,
    BreakerPolicy,
    Completion,
    CompletionPolicy,
    ConfigurationError,
    Credentials,
    IntentState,
    InvalidInput,
    MemoryJournal,
    MintedConnect,
    MintedConnectError,
    Options,
    Order,
    RateLimit,
    RetryPolicy,
    Secret,
    Shipping,
    SqliteSink,
    Timeouts,
    ValidationFailed,
)
from minted_connect.core import converter
from minted_connect.feed import RateFeed
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import basket_json, intent_of, order_json

TOKEN = "T" * 32
KEY = BasketKey("customer-1", TOKEN)


def id_of(value: Any) -> str:
    """Name a value without its address in memory: processes that share the tests must agree on their names."""
    return "object" if type(value) is object else repr(value)


# Every parameter of every method is called with every wrong value.

WRONG: dict[str, Any] = {
    "None": None,
    "1.5": 1.5,
    "nan": float("nan"),
    "Decimal": Decimal("1.5"),
    "True": True,
    "0": 0,
    "-1": -1,
    "10**5000": 10**5000,
    "bytes": b"x",
    "object": object(),
    "class": str,
    "''": "",
    "blank": " ",
    "lines": "a\nb",
    "surrogate": "\ud800",
    "[]": [],
    "{}": {},
}

BASKET = converter.structure(basket_json(), Basket)
ORDER = converter.structure(order_json(), Order)
COMPLETION = Completion(None, {"id": "10984"}, {"customer": {"external_id": "customer-1"}})
INTENT = intent_of(state=IntentState.CONFIRMED)
PERIOD = {"start": date(2026, 1, 1), "end": date(2026, 1, 2)}

# The arguments of completions are tested in tests/completion.
VALID: list[tuple[str, dict[str, Any]]] = [
    ("customers.create", {"customer_id": "customer-1"}),
    ("customers.get", {"customer_id": "customer-1"}),
    ("customers.update", {"customer_id": "customer-1", "lastname": "Hopper"}),
    ("customers.remove", {"customer_id": "customer-1"}),
    ("products.page", {}),
    ("products.pages", {}),
    ("products.iterate", {}),
    ("baskets.get_active", {"customer_id": "customer-1"}),
    ("baskets.add_item", {"basket": "customer-1", "sku": "S"}),
    ("baskets.add_item", {"basket": KEY, "sku": "S"}),
    ("baskets.add_item", {"basket": BASKET, "sku": "S"}),
    ("baskets.update_item", {"basket": KEY, "sku": "S", "qty": 1}),
    ("baskets.delete_item", {"basket": KEY, "sku": "S"}),
    ("baskets.clear", {"basket": KEY}),
    ("baskets.replace", {"basket": "customer-1", "items": {"S": 1}}),
    ("orders.page", PERIOD),
    ("orders.pages", PERIOD),
    ("orders.iterate", PERIOD),
    ("orders.get", {"order_id": 10984, "customer_id": "customer-1"}),
    *((f"orders.{method}", {"order": order}) for method in ("wait", "watch") for order in (ORDER, COMPLETION, INTENT)),
    ("orders.receipt", {"order_id": 10984, "customer_id": "customer-1"}),
    ("orders.invoice", {"external_order_id": "10984"}),
    ("wallet.balance", {"customer_id": "customer-1"}),
    ("rates.current", {}),
    ("rates.history", {"metal": "gold", **PERIOD}),
    ("rates.history", {"currency_id": 1000013, **PERIOD}),
    ("rates.feed", {"interval": 60}),
    ("request", {"method": "POST", "path": "/partner/anything"}),
    ("with_options", {}),
    ("feed.subscribe", {}),
    ("feed.latest", {}),
    ("feed.record", {"sink": SqliteSink(":memory:")}),
    ("feed.wait_for", {"predicate": bool, "timeout": 1}),
    ("feed.alerts", {"above": 5}),
]

# Values of WRONG that are valid for a parameter. None is valid where the annotation allows it.
ACCEPTED: dict[str, set[str]] = {
    "customers.create middlename": {"''"},
    "customers.update middlename": {"''"},
    "orders.wait timeout": {"1.5"},
    "orders.watch patience": {"1.5"},
    "wallet.balance deliverable": {"True"},
    "rates.feed interval": {"1.5"},
    "rates.feed jitter": {"0"},
    "rates.feed max_backoff": {"1.5"},
    "request query": {"{}"},
    "request json": {"None", "Decimal", "True", "0", "-1", "''", "blank", "lines", "[]", "{}"},
    "with_options deadline": {"1.5"},
    "with_options extra_headers": {"{}"},
    "with_options extra_query": {"{}"},
    "with_options extra_body": {"{}"},
    "feed.subscribe changes_only": {"True"},
    "feed.record patience": {"0", "1.5"},
    "feed.alerts above": {"Decimal", "10**5000"},
    "feed.alerts below": {"Decimal", "10**5000"},  # the latter is not below `above`
    "feed.wait_for predicate": {"class"},
    "feed.wait_for timeout": {"1.5"},
    "RetryPolicy budget": {"0"},
    "CompletionPolicy fence_proves_not_executed": {"True"},
    "Options keep_error_bodies": {"True"},
    "Options read_only": {"True"},
    "Options paths": {"{}"},
    "Options on_attempt": {"class", "None"},
    "Options random": {"class"},
    "AsyncMintedConnect username": {"blank"},
    "AsyncMintedConnect password": {"blank", "lines"},
    **{f"{name} {field.name}": {"1.5"} for name in ("Timeouts",) for field in attrs.fields(Timeouts)},
    "RetryPolicy wait_initial": {"1.5"},
    "RetryPolicy wait_max": {"1.5"},
    "RateLimit rate": {"1.5"},
    "BreakerPolicy cooldown": {"1.5"},
    "CompletionPolicy price_fix_margin": {"1.5"},
    "CompletionPolicy reconcile_budget": {"1.5"},
    "CompletionPolicy orders_lag": {"0", "1.5"},
    "CompletionPolicy claim_seconds": {"1.5"},
    "CompletionPolicy latest_landing": {"0", "1.5"},
    "CompletionPolicy order_keeps_number": {"True"},
    "CompletionPolicy inline_looks": {"0", "1.5"},
    "Options keepalive": {"1.5"},
}

REPORTED_AS = {
    "basket": {"customer_id"},
    "currency_id": {"metal"},
}
"""The vendor's name of a parameter, if the error uses it."""


def case_id(case: Any) -> str:
    return case if isinstance(case, str) else "-".join(case)


def wrong_arguments(owner: str, parameters: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield every parameter with every value that is not valid for it."""
    for name, annotation in parameters:
        accepted = set(ACCEPTED.get(f"{owner} {name}", ()))
        if "None" in str(annotation) or "MaybeText" in str(annotation):
            accepted.add("None")
        yield from ((name, label, value) for label, value in WRONG.items() if label not in accepted)


def parameters_of(function: Any) -> list[tuple[str, Any]]:
    return [
        (parameter.name, parameter.annotation)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


def parameters_of_method(name: str) -> list[tuple[str, Any]]:
    if name.startswith("feed."):
        return parameters_of(getattr(RateFeed, name.removeprefix("feed.")))
    return parameters_of(attrgetter(name)(AsyncMintedConnect("u", "p")))


async def method_of(minted: Any, name: str) -> Any:
    if not name.startswith("feed."):
        return attrgetter(name)(minted)
    feed = minted.rates.feed(interval=60)
    return getattr(await feed if inspect.isawaitable(feed) else feed, name.removeprefix("feed."))


async def call_to_the_end(method: Any, arguments: dict[str, Any]) -> None:
    result = method(**arguments)
    if hasattr(result, "__anext__") and not hasattr(result, "dropped"):  # an iterator over pages, not a subscription
        result = anext(result, None)
    if inspect.isgenerator(result):  # of a blocking feed
        result = anyio.to_thread.run_sync(next, result, None)
    if inspect.isawaitable(result):
        await result


@pytest.mark.parametrize(("name", "valid"), VALID, ids=[case_id([name, *valid]) for name, valid in VALID])
async def test_every_wrong_argument_raises_invalid_input(minted, sandbox: Sandbox, name, valid):
    method = await method_of(minted, name)
    problems = []
    for parameter, label, value in wrong_arguments(name, parameters_of_method(name)):
        try:
            await call_to_the_end(method, {**valid, parameter: value})
        except InvalidInput as error:
            if error.field not in {parameter, *REPORTED_AS.get(parameter, ())} or not error.rule:
                problems.append(f"{parameter}={label}: {error!r}")
        except ConfigurationError as error:
            if not str(error).startswith(f"{parameter}: "):
                problems.append(f"{parameter}={label}: {error!r}")
        except Exception as error:
            problems.append(f"{parameter}={label}: {error!r}")
        else:
            problems.append(f"{parameter}={label}: accepted")
    assert problems == []
    assert len(sandbox.requests) == 0


@pytest.mark.parametrize(("name", "valid"), VALID, ids=[case_id([name, *valid]) for name, valid in VALID])
async def test_valid_arguments_are_accepted(connect, sandbox: Sandbox, name, valid):
    options = Options(clock=ManualClock(auto_advance=True))
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
    if name in {"feed.wait_for", "feed.alerts"}:
        return  # waits for a tick
    try:
        await call_to_the_end(await method_of(minted, name), valid)
    except MintedConnectError as error:
        assert not isinstance(error, InvalidInput | ConfigurationError), error


def test_valid_arguments_cover_every_method():
    client = AsyncMintedConnect("u", "p")
    methods = {
        f"{resource}.{name}"
        for resource, value in vars(client).items()
        if not resource.startswith("_") and resource != "complete"
        for name, _ in inspect.getmembers(value, callable)
        if not name.startswith("_")
    }
    feed = {f"feed.{name}" for name in vars(RateFeed) if not name.startswith("_")}
    feed -= {"feed.aclose", "feed.failures", "feed.is_breaker_open", "feed.last_error"}
    assert {name for name, _ in VALID} == methods | feed | {"request", "with_options"}


@pytest.mark.parametrize(
    "cls",
    [Timeouts, RetryPolicy, RateLimit, BreakerPolicy, CompletionPolicy, Options],
    ids=lambda cls: cls.__name__,
)
def test_every_wrong_setting_raises_configuration_error(cls):
    valid = {"rate": 1} if cls is RateLimit else {}
    problems = []
    for name, label, value in wrong_arguments(cls.__name__, [(field.name, field.type) for field in attrs.fields(cls)]):
        try:
            cls(**{**valid, name: value})
        except ConfigurationError as error:
            if name not in str(error):
                problems.append(f"{name}={label}: {error!r}")
        except Exception as error:
            problems.append(f"{name}={label}: {error!r}")
        else:
            problems.append(f"{name}={label}: accepted")
    assert problems == []


@pytest.mark.parametrize("cls", [AsyncMintedConnect, MintedConnect])
def test_every_wrong_client_argument_raises_configuration_error(cls):
    problems = []
    for name, label, value in wrong_arguments("AsyncMintedConnect", parameters_of(cls)):
        try:
            cls(**{"username": "u", "password": "p", name: value})
        except ConfigurationError as error:
            if not str(error).startswith(f"{name}: "):
                problems.append(f"{name}={label}: {error!r}")
        except Exception as error:
            problems.append(f"{name}={label}: {error!r}")
        else:
            problems.append(f"{name}={label}: accepted")
    assert problems == []


# Values that break a rule of a single field: (field, call). `m` is the client.
REFUSED: list[tuple[str, Any]] = [
    ("customer_id", lambda m: m.customers.create("")),
    ("customer_id", lambda m: m.customers.create("a\r\nX-Evil: 1")),
    ("customer_id", lambda m: m.customers.create(17)),
    ("email", lambda m: m.customers.create("customer-1", email="")),
    ("birthdate", lambda m: m.customers.create("customer-1", birthdate="1970-01-31")),
    ("birthdate", lambda m: m.customers.create("customer-1", birthdate=datetime(1970, 1, 31))),
    ("customer_id", lambda m: m.customers.get("")),
    ("id", lambda m: m.customers.get("..")),
    ("id", lambda m: m.customers.remove(".")),
    ("update", lambda m: m.customers.update("customer-1")),
    ("firstname", lambda m: m.customers.update("customer-1", firstname=7)),
    ("page", lambda m: m.products.page(page=0)),
    ("page", lambda m: m.products.page(page=1.0)),
    ("per_page", lambda m: m.products.page(per_page=0)),
    ("per_page", lambda m: m.products.page(per_page=True)),
    ("customer_id", lambda m: m.baskets.get_active("")),
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
    ("type", lambda m: m.baskets.add_item(BASKET, sku="S", type="sell")),
    ("type", lambda m: m.baskets.add_item(BASKET, sku="S", type="gift")),
    ("type", lambda m: m.baskets.add_item(KEY, sku="S", type="gift")),
    ("basket", lambda m: m.baskets.update_item("customer-1", sku="S", qty=1)),
    ("qty", lambda m: m.baskets.update_item(KEY, sku="S", qty=2**63)),
    ("order", lambda m: m.orders.wait(10984)),
    ("order", lambda m: m.orders.wait(intent_of())),
    ("order", lambda m: m.orders.wait(Completion(None))),
    ("until", lambda m: m.orders.wait(ORDER, until=[5])),
    ("status", lambda m: m.orders.page(status=[1, b"x"])),
    ("qty", lambda m: m.baskets.update_item(KEY, sku="S", qty=0)),
    ("sku", lambda m: m.baskets.update_item(KEY, sku=None, qty=1)),
    ("sku", lambda m: m.baskets.delete_item(KEY, sku=" ")),
    ("cart_token", lambda m: m.baskets.clear(BasketKey("customer-1", "x" * 33))),
    ("basket", lambda m: m.baskets.replace(7, {"S": 1})),
    ("items", lambda m: m.baskets.replace(KEY, {})),
    ("items", lambda m: m.baskets.replace(KEY, [("S", 1)])),
    ("sku", lambda m: m.baskets.replace(KEY, {"": 1})),
    ("sku", lambda m: m.baskets.replace(KEY, {7: 1})),
    *[("qty", lambda m, qty=qty: m.baskets.replace(KEY, {"S": qty})) for qty in (0, -1, 1.0, True, "1", 2**63)],
    ("type", lambda m: m.baskets.replace("customer-1", {"S": 1}, type="gift")),
    ("type", lambda m: m.baskets.replace(BASKET, {"S": 1}, type="sell")),
    ("cart_token", lambda m: m.baskets.replace(BasketKey("customer-1", "short"), {"S": 1})),
    ("customer_id", lambda m: m.wallet.balance("")),
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
    ("per_page", lambda m: m.orders.page(per_page=0)),
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
    *[("path", lambda m, char=char: m.request("POST", f"/a{char}b")) for char in '"<>^|`\\{}[] %#'],
    ("query", lambda m: m.request("GET", "/a", query={"page": 1})),
    ("query", lambda m: m.request("GET", "/a", query={"page": None})),
    ("query", lambda m: m.request("GET", "/a", query={"page": True})),
    ("query", lambda m: m.request("GET", "/a", query={1: "page"})),
    ("query", lambda m: m.request("GET", "/a", query=[("page", "1")])),
    ("query", lambda m: m.request("GET", "/a", query={"page": "\ud800"})),
    ("json", lambda m: m.request("POST", "/a", json={"amount": [0.1]})),
    ("json", lambda m: m.request("POST", "/a", json={1: "a"})),
    ("json", lambda m: m.request("POST", "/a", json={"a": {1, 2}})),
    ("json", lambda m: m.request("POST", "/a", json={"a": Decimal("NaN")})),
    ("json", lambda m: m.request("POST", "/a", json={"a\ud800": "b"})),
]


@pytest.mark.parametrize(("field", "call"), REFUSED, ids=[f"{n}-{field}" for n, (field, _) in enumerate(REFUSED)])
async def test_refused_argument_names_field_and_sends_nothing(minted, sandbox: Sandbox, field, call):
    with pytest.raises(InvalidInput) as caught:
        await call(minted)
    assert caught.value.field == field
    assert caught.value.rule
    assert isinstance(caught.value, ValueError)
    assert len(sandbox.requests) == 0


async def test_lengths_are_checked_by_the_server_only(minted, sandbox: Sandbox):
    for field, call in {
        "external_id": lambda: minted.customers.create("x" * 41),
        "firstname": lambda: minted.customers.create("customer-1", firstname="Al"),
        "total": lambda: minted.products.page(per_page=1000),
    }.items():
        sandbox.requests.clear()
        with pytest.raises(ValidationFailed) as caught:
            await call()
        assert set(caught.value.fields) == {field}
        assert sandbox.requests


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
async def test_raw_request_to_a_completion_path_is_refused(connect, sandbox: Sandbox, verb, path):
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
        lambda: RetryPolicy(read_attempts=0),
        lambda: RetryPolicy(budget=-1),
        lambda: RateLimit(rate=0),
        lambda: Options(digest_policy="ancient"),
        lambda: Options(user_agent="a\nb"),
        lambda: Options(pool_size=0),
    ],
)
def test_invalid_setting_raises_configuration_error(build):
    with pytest.raises(ConfigurationError):
        build()


@pytest.mark.parametrize(
    ("username", "password", "message"),
    [
        ("canary\n", "canary", "username: must be printable"),
        ("can\x00ary", "canary", "username: must be printable"),
        ("user", "canary\n", "password: must not end in a line break"),
        ("user", "canary\r\n", "password: must not end in a line break"),
        ("user", "canary\udcff", "password: must be valid Unicode"),
        ("user", Secret("canary\n"), "password: must not end in a line break"),
    ],
)
@pytest.mark.parametrize("build", [Credentials, AsyncMintedConnect, MintedConnect])
def test_refused_credentials_are_not_shown(build, username, password, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(username, password)
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
    if build is not Credentials:
        # Some applications log local variables. The first frame belongs to this test.
        frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
        values = [value for frame in frames for value in (frame.locals or {}).values()]
        assert "canary" not in "".join(value for value in values if value != repr(username))


def test_repr_of_client_that_was_not_built():
    for cls in (AsyncMintedConnect, MintedConnect):
        assert repr(object.__new__(cls)) == f"<{cls.__name__} (not built)>"


def test_secret_with_surrogate_can_be_compared():
    assert Secret("\ud800") != Secret("a")
    with pytest.raises(ConfigurationError):
        Secret(5)


async def test_lent_journal_stays_open():
    class Journal(MemoryJournal):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    journal = Journal()
    async with AsyncMintedConnect("u", "p", journal=journal) as minted:
        await minted.with_options(language="en").aclose()
    with MintedConnect("u", "p", journal=journal):
        pass
    assert journal.closed == 0


@pytest.mark.parametrize("cls", [AsyncMintedConnect, MintedConnect])
def test_journal_without_directory_raises_configuration_error(cls, tmp_path):
    for path in (tmp_path / "none" / "journal.db", str(tmp_path / "none" / "journal.db"), tmp_path, "a\0b"):
        with pytest.raises(ConfigurationError, match=r"^journal: "):
            cls("u", "p", journal=path)
    with pytest.raises(ConfigurationError, match=r"^journal: is a class"):
        cls("u", "p", journal=MemoryJournal)
    cls("u", "p", journal=tmp_path / "journal.db")


async def test_sandbox_with_invalid_settings_raises():
    for settings in ({"options": "x"}, {"timeouts": 30}, {"retry": 5}, {"options": 5, "clock": ManualClock()}):
        with pytest.raises(ConfigurationError):
            async with AsyncMintedConnect.sandbox(**settings):
                pass
        with pytest.raises(ConfigurationError), MintedConnect.sandbox(**settings):
            pass


async def test_feed_with_wrong_credentials_raises(sandbox: Sandbox):
    async with AsyncMintedConnect(sandbox.username, "wrong", base_url=sandbox.url) as minted:
        with pytest.raises(AuthenticationFailed):
            async with minted.rates.feed(interval=60) as feed:
                await anext(feed.subscribe())


@pytest.mark.requirement(31)
def test_credentials_are_not_shown_compared_or_pickled():
    credentials = Credentials("canary-user", "canary-password")
    client = AsyncMintedConnect("canary-user", "canary-password")
    assert "canary" not in f"{credentials!r}{credentials}{client!r}{client._api.settings!r}"
    assert credentials.password.reveal() == "canary-password"
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    with pytest.raises(TypeError, match="not pickled"):
        import pickle

        pickle.dumps(credentials)


def test_from_env_reads_variables_or_names_the_missing_one(monkeypatch, tmp_path):
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


ADDRESS = {
    "fullname": "Ada Demo",
    "phone": "+905550001122",
    "city": "c",
    "county": "c",
    "district": "d",
    "address": "a",
    "tax_number": "12345678910",
}


@pytest.mark.parametrize("value", [5, 1.5, True, b"x", "\n", "  ", "a\nb", "\ud800", object()], ids=id_of)
@pytest.mark.parametrize("name", [*ADDRESS, "external_id", "street", "zipcode", "email"])
async def test_wrong_part_of_address_is_refused_before_sending(minted, sandbox: Sandbox, name, value):
    await minted.customers.create("customer-1")
    sandbox.shop.give("customer-1", "MNTBAE0001", 1)
    basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001", type="delivery")
    sandbox.requests.clear()
    with pytest.raises(InvalidInput) as caught:
        await minted.complete.delivery(
            basket, shipping=Shipping(**{**ADDRESS, name: value}), expected_total=basket.paid_total
        )
    assert caught.value.field == f"shipping.{name}"
    assert len(sandbox.requests) == 0
    assert await minted.complete.pending() == []


@pytest.mark.parametrize("value", [1, "yes", None, []])
async def test_reconcile_fence_must_be_boolean(minted, sandbox: Sandbox, value):
    with pytest.raises(InvalidInput, match="fence: must be True or False"):
        await minted.complete.reconcile(intent_of(), fence=value)
    assert len(sandbox.requests) == 0


@pytest.mark.parametrize(
    "setting",
    [
        {"refusals": {422}},
        {"refusals": frozenset({500})},
        {"refusals": frozenset({200})},
        {"refusals": frozenset({401})},
        {"refusals": frozenset({408})},
        {"refusals": frozenset({"422"})},
        {"refusals": frozenset({True})},
        {"idempotency_header": "Idempotency Key"},
        {"idempotency_header": "Key\r\nX"},
        {"pre_image": "always"},
        {"latest_landing": -1},
        {"orders_lag": False},
        {"inline_looks": -0.1},
    ],
    ids=str,
)
def test_invalid_completion_policy_names_the_field(setting: dict[str, Any]):
    [name] = setting
    with pytest.raises(ConfigurationError, match=rf"^CompletionPolicy\.{name}: "):
        CompletionPolicy(**setting)


@pytest.mark.parametrize("value", ["id", None, 5, object()], ids=id_of)
async def test_reconcile_of_wrong_type_raises_invalid_input(minted, sandbox: Sandbox, value):
    with pytest.raises(InvalidInput, match="pending"):
        await minted.complete.reconcile(value)
    assert len(sandbox.requests) == 0
