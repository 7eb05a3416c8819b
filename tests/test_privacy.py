"""Logs, errors and reprs contain no personal data, tokens or passwords, under every fault."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import html
import inspect
import itertools
import json
import logging
import pickle
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import anyio.to_thread
import pytest

import minted_connect
from minted_connect import (
    APIError,
    AsyncMintedConnect,
    CompletionPolicy,
    ConfigurationError,
    JournalError,
    MintedConnect,
    MintedConnectError,
    Options,
    Shipping,
    to_dict,
)
from minted_connect.models import BasketKey, Intent, OrderKind, OrderProgress
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.sandbox.active_faults import FaultKind
from tests.support.leak_text import local_variables, texts_of
from tests.support.operations import CALLS, GOLD, Call, Person, PreparedData, prepare_data
from tests.support.raw_server import Connection, RawServer

USERNAME, PASSWORD = "canary-user", "canary-Pa55word"
PERSON = Person(
    customer="canary-customer-7",
    newcomer="canary-newcomer-8",
    details={
        "firstname": "Zübeyde",
        "middlename": "Quirina",
        "lastname": "Wolfeschlegel",
        "email": "zuebeyde.w@canary.example",
        "phone": "+90 532 987 65 43",
        "identity_number": "98765432109",
        "birthdate": date(1903, 11, 27),
    },
    shipping=Shipping(
        fullname="Zübeyde Wolfeschlegel",
        phone="+905329876543",
        city="Zonguldak",
        county="Kilimli",
        district="Çatalağzı",
        address="Nightingale Lane 88",
        tax_number="9182736455",
        street="Kestrelstraße",
        zipcode="Zq9xK",
        email="door@canary.example",
        external_id="canary-home",
    ),
)
CANARIES = {
    USERNAME,
    PASSWORD,
    PERSON.customer,
    PERSON.newcomer,
    "Zübeyde",
    "Quirina",
    "Wolfeschlegel",
    "canary.example",
    "532 987 65 43",
    "5329876543",
    "98765432109",
    "1903-11-27",
    "(1903, 11, 27)",
    "Zonguldak",
    "Kilimli",
    "Çatalağzı",
    "Nightingale",
    "9182736455",
    "Kestrelstraße",
    "Zq9xK",
    "canary-home",
}


def assert_private(texts: Iterable[str], more: Iterable[str] = ()) -> None:
    canaries = CANARIES | set(more)
    for text in texts:
        found = {canary for canary in canaries if canary.casefold() in text.casefold()}
        assert not found, f"{found} in {text!r}"


@pytest.fixture(autouse=True)
def log_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("minted_connect", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, name)


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1, clock=clock, username=USERNAME, password=PASSWORD) as server:
        yield server


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox, clock: ManualClock, tmp_path: Path) -> Any:
    options = Options(clock=clock, max_body=2**17, completion=CompletionPolicy(reconcile_budget=5))
    return await connect(sandbox.url, USERNAME, PASSWORD, options=options, journal=tmp_path / "journal.db")


@pytest.fixture
async def canaries(minted: Any, sandbox: Sandbox, clock: ManualClock) -> PreparedData:
    return await prepare_data(minted, sandbox, clock, PERSON)


def tokens(prepared: PreparedData) -> set[str]:
    return {basket.token for basket in (prepared.buying, prepared.selling, prepared.sending)}


# Every call of the client.


def intent_of(prepared: PreparedData) -> Intent:
    """Return the intent of the prepared purchase, as the journal contains it after a crash."""
    order = prepared.bought
    return Intent(
        *("0b9c1f2e-0000-4000-8000-000000000001", OrderKind.BUY, order.customer.external_id, order.token, order.id),
        *(order.guid, order.increment_id, order.price_token, order.paid_total, order.currency_code),
        *(((GOLD, 2),), order.order_at),
    )


async def collect(walk: AsyncIterator[Any] | Awaitable[Iterable[Any]]) -> list[Any]:
    if inspect.isawaitable(walk):
        iterator = await walk
        return await anyio.to_thread.run_sync(lambda: list(iterator))
    return [item async for item in walk]


numbers = itertools.count()
"""Make each reference a new one."""

OTHER_CALLS: dict[str, Call] = {
    "baskets.replace": lambda m, s: m.baskets.replace(s.buying, {GOLD: 2, "MNTBAE0013": 1}),
    "complete.buy_items": lambda m, s: m.complete.buy_items(
        s.person.customer, {GOLD: 1}, reference=f"buy-{next(numbers)}", max_total=Decimal(10**6), currency="AED"
    ),
    "complete.sell_items": lambda m, s: m.complete.sell_items(
        s.person.customer, {GOLD: 1}, reference=f"sell-{next(numbers)}", min_total=Decimal(0), currency="AED"
    ),
    "complete.deliver_items": lambda m, s: m.complete.deliver_items(
        s.person.customer,
        {GOLD: 1},
        shipping=s.person.shipping,
        reference=f"deliver-{next(numbers)}",
        max_total=Decimal(10**6),
        currency="AED",
    ),
    "complete.pending": lambda m, s: m.complete.pending(),
    "complete.unfinished": lambda m, s: m.complete.unfinished(),
    "complete.intents": lambda m, s: collect(m.complete.intents(customer_id=s.person.customer)),
    "complete.intents_page": lambda m, s: m.complete.intents_page(reference="buy-0"),
    "complete.intent": lambda m, s: m.complete.intent(reference="buy-0"),
    "complete.forget": lambda m, s: m.complete.forget(before=datetime(2020, 1, 1, tzinfo=UTC)),
    "complete.erase_customer": lambda m, s: m.complete.erase_customer("nobody"),
    "complete.reconcile": lambda m, s: m.complete.reconcile(intent_of(s)),
    "complete.reconcile_all": lambda m, s: m.complete.reconcile_all(intents=[intent_of(s)]),
    "orders.get": lambda m, s: m.orders.get(s.bought.id, customer_id=s.person.customer),
    "orders.pages": lambda m, s: collect(m.orders.pages(customer_id=s.person.customer)),
    "orders.iterate": lambda m, s: collect(m.orders.iterate(customer_id=s.person.customer)),
    "orders.wait": lambda m, s: m.orders.wait(s.bought, timeout=5),
    "orders.watch": lambda m, s: collect(m.orders.watch(s.bought, patience=5)),
    "products.pages": lambda m, s: collect(m.products.pages()),
    "products.iterate": lambda m, s: collect(m.products.iterate()),
    "a raw read": lambda m, s: m.request("GET", f"/partner/customer/{s.person.customer}"),
    "a raw query": lambda m, s: m.request(
        "GET", "/partner/walletable/basket", query={"external_customer_id": s.person.customer}
    ),
    "a raw change": lambda m, s: m.request(
        "POST", "/partner/customer", json={"external_id": s.person.newcomer, "email": s.person.details["email"]}
    ),
}
"""Calls that are not operations of the API. The price feed is omitted, because prices are not personal."""
CALLS_THAT_REMOVE = {
    *("baskets.delete_item", "baskets.clear", "customers.remove"),
    *("complete.buy", "complete.sell", "complete.delivery"),
    *("complete.buy_items", "complete.sell_items", "complete.deliver_items"),
}
"""Calls that remove data which other calls need; a failed purchase blocks its basket."""


def test_calls_contain_every_method():
    offered = {
        f"{resource}.{name}"
        for resource in ("customers", "products", "baskets", "complete", "orders", "wallet", "rates")
        for name in dir(getattr(MintedConnect("u", "p"), resource))
        if not name.startswith("_")
    }
    not_called = {
        *("rates.feed", "complete.adopt", "complete.decide", "complete.reconciler", "complete.assign_reference"),
    }
    assert offered - {*CALLS, *OTHER_CALLS} == not_called


def texts_of_result(result: Any) -> list[str]:
    """Return all texts that show a result or its rows."""
    rows = result if isinstance(result, list | tuple) else [result]
    shown = [repr(result), str(result)]
    for row in rows:
        if hasattr(row, "__attrs_attrs__") and not isinstance(row, minted_connect.Response):
            assert "raw" not in repr(row)
            shown.append(repr(to_dict(row, redact=True)))
    return shown


LOG_LINES = [
    re.compile(text.format(route=r"(?:GET|POST|PUT|PATCH|DELETE) (?:/partner[a-z/{}]*|\(raw\))"))
    for text in (
        r"{route}: \d\d\d in \d+\.\d ms, attempt \d+",
        r"{route}: attempt \d+ failed \([A-Za-z]+\); next in \d+\.\d\d s",
        r"{route}: polling order \d+ failed \([A-Za-z]+\); retrying",
        r"{route}: a row cannot be read and is left out: (?:data[A-Za-z_.\[\]\d]*: [A-Za-z ,-]+(?:; )?)+",
    )
]
"""All log lines of calls: method, path template, status, time, attempt, class of an error, order, path and rule."""


def log_texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log, including the arguments and exceptions of the records."""
    lines = [record.getMessage() for record in caplog.records if record.name == "minted_connect"]
    assert lines
    for line in lines:
        assert any(allowed.fullmatch(line) for allowed in LOG_LINES), line
    # -X dev makes asyncio log the tests that block its loop, with their parameters.
    records = [record for record in caplog.records if "TestRunner" not in record.getMessage()]
    return [caplog.handler.format(record) + repr(record.args) for record in records]


@pytest.mark.requirement(32)
async def test_results_and_logs_of_all_calls_are_private(minted, sandbox, clock, canaries, caplog):
    """Check every returned model and every log line."""
    shown = [repr(canaries.buying), repr(canaries.bought), repr(canaries.buying.key), repr(minted)]
    for name, call in {**OTHER_CALLS, **CALLS}.items():
        if name not in CALLS_THAT_REMOVE | {"a raw change"}:
            shown += texts_of_result(await call(minted, canaries))
    for name in ("complete.sell", "complete.delivery"):
        shown += texts_of_result(await CALLS[name](minted, canaries))
    for name in ("baskets.delete_item", "baskets.clear"):
        shown.append(repr(await CALLS[name](minted, canaries)))
    await CALLS["customers.remove"](minted, canaries)
    assert len(shown) > 80
    assert_private([*shown, *log_texts(caplog)], tokens(canaries))


def test_models_built_by_the_caller_are_private():
    key = BasketKey(PERSON.customer, "T" * 32)
    seen = OrderProgress("Shipped", cargo_tracking_number="Nightingale-88")
    shown = [repr(value) for value in (PERSON.shipping, key, seen, to_dict(PERSON.shipping, redact=True))]
    assert_private(shown, {"T" * 32})


FAULTS: list[tuple[FaultKind, dict[str, Any]]] = [
    ("status", {"status": 400}),
    ("status", {"status": 401}),
    ("status", {"status": 403, "html": True}),
    ("status", {"status": 404}),
    ("status", {"status": 409}),
    ("status", {"status": 422}),
    ("status", {"status": 500, "commit": True}),
    ("rate_limit", {"retry_after": 3600}),
    ("success_false", {}),
    ("stale_nonce", {}),
    ("delay", {}),
    ("delay_after_commit", {}),
    ("hang", {}),
    ("hang", {"commit": True}),
    ("drop_before_read", {}),
    ("drop_before_read", {"reset": True}),
    ("drop_after_commit", {}),
    ("late_commit", {}),
    ("refusal", {}),
    ("refusal", {"is_envelope": False, "commit": "after"}),
    ("order_status", {"name": "Completed"}),
    ("truncate", {}),
    ("truncate", {"chunked": True}),
    ("slow_loris", {"interval": 0.5}),
    ("slow_loris", {"interval": 0.5, "where": "head"}),
    ("invalid_json", {}),
    ("html", {}),
    ("nan", {}),
    ("duplicate_keys", {}),
    ("empty", {}),
    ("deep", {}),
    ("too_large", {"size": 2**18}),
    ("gzip_bomb", {"size": 2**20}),
    ("two_answers", {}),
    ("interim", {}),
    ("redirect", {"location": f"https://files.example.com/{PERSON.customer}?email=zuebeyde.w@canary.example"}),
    ("many_headers", {}),
    ("long_header", {}),
    ("wrong_customer", {"external_id": "canary-home"}),
    ("drop_field", {"field": "external_id"}),
    ("drop_field", {"field": "paid_total"}),
    ("extra_field", {"field": "paid_total", "value": "Nightingale"}),
    ("extra_field", {"field": "items", "value": [{"sku": "98765432109"}]}),
    ("extra_field", {"field": "order_at", "value": "1903-11-27 Zonguldak"}),
    ("extra_field", {"field": "customer", "value": "Wolfeschlegel"}),
    ("odd_row", {"field": "customer", "value": "Wolfeschlegel"}),
    ("page_drift", {}),
]
FAULTS_WITHOUT_ERRORS = {
    *("delay", "delay_after_commit", "drop_field", "extra_field", "interim"),
    *("odd_row", "order_status", "page_drift", "stale_nonce", "two_answers", "wrong_customer"),
}


def test_faults_contain_every_kind():
    assert {kind for kind, _ in FAULTS} == set(get_args(FaultKind))


@contextlib.asynccontextmanager
async def advancing_clock(sandbox: Sandbox, clock: ManualClock) -> AsyncIterator[None]:
    """Advance the clock by a minute whenever a call waits for a response that does not arrive."""

    async def advance() -> None:
        while True:
            if any(fault.waiting for fault in sandbox.faults.all()):
                clock.advance(61)
            await asyncio.sleep(0.001)

    advancing = asyncio.create_task(advance())
    try:
        yield
    finally:
        advancing.cancel()


@pytest.mark.requirement(31)
@pytest.mark.parametrize(("kind", "args"), FAULTS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(FAULTS)])
async def test_errors_and_logs_under_every_fault_are_private(minted, sandbox, clock, canaries, caplog, kind, args):
    """Check the error and the log of every call under every fault."""
    errors = 0
    async with advancing_clock(sandbox, clock):
        for call in [*OTHER_CALLS.values(), *CALLS.values()]:
            sandbox.faults.add(kind, times=None, **args)
            try:
                result = await call(minted, canaries)
            except MintedConnectError as error:
                errors += 1
                assert_private(texts_of(error), tokens(canaries))
            else:
                assert_private(texts_of_result(result), tokens(canaries))
            sandbox.faults.clear()
    assert errors or kind in FAULTS_WITHOUT_ERRORS
    assert_private(log_texts(caplog), tokens(canaries))


# Servers whose responses repeat the request.


def describe_request(first: str, body: bytes) -> str:
    """Return the whole request in one line, as a debug page would show it."""
    values = [str(value) for value in json.loads(body).values()] if body else []
    return " / ".join([unquote(first), *values])


def fields(text: str) -> bytes:
    return json.dumps(
        {
            "data": None,
            "success": False,
            "code": 422,
            "message": f"Invalid: {text}",
            "errors": {"email": [f"{text} is not valid."], text: [text], "nested": {"name": {"why": text}}},
        }
    ).encode()


ECHOES: list[tuple[int, Callable[[str], bytes]]] = [
    (400, lambda text: json.dumps({"success": False, "code": 400, "message": f"What is {text}?"}).encode()),
    (400, lambda text: f"What is {text}?".encode()),
    (401, lambda text: json.dumps({"data": None, "success": False, "code": 401, "message": text}).encode()),
    (403, lambda text: f"<html><title>403</title><p>{html.escape(text)}</p></html>".encode()),
    (404, lambda text: f"<h1>Not Found</h1>The requested URL {text} was not found.".encode()),
    (422, fields),
    (422, lambda text: json.dumps({"errors": [text, {"field": "email", "message": text}]}).encode()),
    (422, lambda text: json.dumps({"errors": text}).encode()),
    (422, lambda text: text.encode()),
    (500, lambda text: f"<pre>Traceback: {text}</pre>".encode()),
    (500, lambda text: json.dumps({"success": False, "code": 500, "message": text, "trace": [text]}).encode()),
    (200, lambda text: json.dumps({"data": text, "success": True, "code": 0, "message": text}).encode()),
    (200, lambda text: json.dumps({"data": {text: text}, "success": True, "code": 0, "message": text}).encode()),
    (200, lambda text: json.dumps({"data": [{text: text}], "success": False, "message": text}).encode()),
    (200, lambda text: json.dumps({text: text}).encode()),
    (200, lambda text: f"<p>{text}</p>".encode()),
    (302, lambda text: text.encode()),
]


@pytest.mark.requirement(33)
@pytest.mark.parametrize(("status", "echo"), ECHOES, ids=[f"{s}-{n}" for n, (s, _) in enumerate(ECHOES)])
async def test_response_that_repeats_the_request_is_not_shown(connect, canaries, caplog, status, echo):
    async def script(connection: Connection) -> None:
        while True:
            first, _, body = await connection.request()
            connection.respond(echo(describe_request(first, body)), status, f"X-Request-Id: {PERSON.customer} \r\n")

    errors = 0
    async with RawServer(script) as server:
        options = Options(clock=ManualClock(auto_advance=True))
        minted = await connect(server.url, USERNAME, PASSWORD, options=options)
        for call in CALLS.values():
            try:
                result = await call(minted, canaries)
            except MintedConnectError as error:
                errors += 1
                assert_private(texts_of(error), tokens(canaries))
                if isinstance(error, APIError):
                    assert error.body is None
            else:
                assert_private([repr(result)], tokens(canaries))
    assert errors >= 15
    assert_private(log_texts(caplog), tokens(canaries))


@pytest.mark.parametrize("status", [401, 403])
async def test_response_that_names_the_user_is_not_shown(connect, status):
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope(None, status, message=f"The user {USERNAME} may not do this.")

    async with RawServer(script) as server:
        minted = await connect(server.url, USERNAME, PASSWORD)
        with pytest.raises(APIError) as caught:
            await minted.rates.current()
    assert_private(texts_of(caught.value))


async def test_response_that_repeats_the_url_is_not_shown(connect):
    async def script(connection: Connection) -> None:
        while True:
            first, _, _ = await connection.request()
            connection.respond(f"The requested URL {first.split()[1]} was not found.".encode(), 404)

    async with RawServer(script) as server:
        minted = await connect(server.url, USERNAME, PASSWORD)
        with pytest.raises(APIError) as caught:
            await minted.customers.get(PERSON.details["email"])  # a traceback shows this line
    assert_private(texts_of(caught.value), {"zuebeyde.w%40"})


# Local variables in tracebacks, and objects that an error refers to.

WITHOUT_REQUEST = {
    *("complete.pending", "complete.unfinished", "complete.intents", "complete.intents_page", "complete.intent"),
    *("complete.forget", "complete.erase_customer"),
}


SECRETS = (PASSWORD, "Digest username", "canary-proxy")


@pytest.mark.requirement(31)
@pytest.mark.parametrize("kind", ["drop_before_read", "truncate", "html", "status", "hang"])
async def test_local_variables_of_failed_calls_show_no_secret(minted, sandbox, clock, canaries, kind):
    shown = []
    async with advancing_clock(sandbox, clock):
        for call in [*OTHER_CALLS.values(), *CALLS.values()]:
            sandbox.faults.add(kind, times=None)
            with contextlib.suppress(MintedConnectError):
                await call(minted, canaries)
            try:
                await call(minted, canaries)
            except MintedConnectError as error:
                shown.append(local_variables(error))
            sandbox.faults.clear()
    assert len(shown) >= len(CALLS)
    assert "ApiClient.exchange" in "".join(shown)
    for secret in SECRETS:
        assert secret not in "".join(shown)


async def cancelled_locals(call: Callable[[], Any], sandbox: Sandbox, **fault: Any) -> str:
    """Cancel a call that waits for its response, so that the traceback contains the waiting frames."""
    hang = sandbox.faults.add("hang", times=None, **fault)
    running = asyncio.create_task(call())
    while not hang.waiting:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    sandbox.faults.clear()
    shown = local_variables(caught.value)
    assert "Transport._send_signed" in shown
    return shown


@pytest.mark.requirement(31)
async def test_local_variables_of_cancelled_calls_show_no_secret(sandbox, clock):
    options = Options(clock=clock)
    shown = []
    async with AsyncMintedConnect(USERNAME, PASSWORD, base_url=sandbox.url, options=options) as minted:
        prepared = await prepare_data(minted, sandbox, clock, PERSON)
        for name, call in {**OTHER_CALLS, **CALLS}.items():
            # `reconcile_all` sends its requests in tasks of their own, whose frames are not in the traceback.
            if name not in {*WITHOUT_REQUEST, "complete.reconcile_all"}:
                shown.append(await cancelled_locals(lambda call=call: call(minted, prepared), sandbox))
    assert len(shown) == len(CALLS) + len(OTHER_CALLS) - len(WITHOUT_REQUEST) - 1
    for secret in SECRETS:
        assert secret not in "".join(shown)


async def test_local_variables_of_call_by_proxy_show_no_secret(sandbox, clock):
    proxy = sandbox.url.replace("//", "//user:canary-proxy@")
    async with AsyncMintedConnect(USERNAME, PASSWORD, base_url="http://127.0.0.1:9", proxy=proxy) as minted:
        shown = await cancelled_locals(minted.rates.current, sandbox, before_auth=True)
    for secret in SECRETS:
        assert secret not in shown


@pytest.mark.requirement(31)
@pytest.mark.parametrize("cls", [AsyncMintedConnect, MintedConnect])
@pytest.mark.parametrize(
    "wrong", [{"base_url": "ftp://x"}, {"proxy": "socks5://user:canary-proxy@x"}, {"journal": 5}, {"language": "\n"}]
)
def test_local_variables_of_refused_client_show_no_secret(cls, wrong):
    with pytest.raises(ConfigurationError) as caught:
        cls(USERNAME, PASSWORD, **{"proxy": "http://user:canary-proxy@127.0.0.1:1", **wrong})
    shown = local_variables(caught.value)
    assert "__init__" in shown
    for secret in SECRETS:
        assert secret not in shown + repr(caught.value)


@pytest.mark.requirement(31)
@pytest.mark.parametrize("cls", [AsyncMintedConnect, MintedConnect])
def test_client_pickle_and_deepcopy_raise_type_error(cls):
    client = cls(USERNAME, PASSWORD, proxy="http://user:canary-proxy@127.0.0.1:1")
    assert_private([f"{client!r} {client}"], {"canary-proxy"})
    for copy_client in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            copy_client(client)
        assert_private([repr(caught.value)], {"canary-proxy"})


async def test_warning_about_unclosed_client_is_private(sandbox, caplog):
    async def forget() -> None:
        minted = AsyncMintedConnect(USERNAME, PASSWORD, base_url=sandbox.url)
        await minted.customers.create(PERSON.customer, **PERSON.details)

    def forget_blocking() -> None:
        minted = MintedConnect(USERNAME, PASSWORD, base_url=sandbox.url)
        minted.customers.get(PERSON.customer)

    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await forget()
        await asyncio.to_thread(forget_blocking)
        for _ in range(3):  # a warning refers to its client, which refers to the object of the next warning
            gc.collect()
            messages += [str(warning.message) for warning in caught]
            caught.clear()
    assert len([text for text in messages if "MintedConnect" in text]) >= 2
    assert_private([*messages, *log_texts(caplog)])


async def test_errors_of_broken_journal_are_private(minted, sandbox, canaries, tmp_path, caplog):
    journal = tmp_path / "journal.db"
    hang = sandbox.faults.add("hang", path="*/complete/buy", commit=True)
    buying = asyncio.create_task(CALLS["complete.buy"](minted, canaries))
    while not hang.waiting:
        await asyncio.sleep(0.001)
    for path in (journal, Path(f"{journal}-wal"), Path(f"{journal}-shm")):
        path.unlink(missing_ok=True)
    journal.write_bytes(f"{PERSON.customer}, {PERSON.details}".encode() * 100)
    hang.remove()
    assert (await buying).order is not None  # a journal error does not hide the purchase
    assert any("its record is lost" in record.getMessage() for record in caplog.records)
    for name in ("complete.sell", "complete.delivery"):
        with pytest.raises(JournalError) as caught:
            await CALLS[name](minted, canaries)
        assert_private(texts_of(caught.value), tokens(canaries))
    for name in ("complete.pending", "complete.unfinished"):
        with pytest.raises(JournalError) as caught:
            await OTHER_CALLS[name](minted, canaries)
        assert_private(texts_of(caught.value), tokens(canaries))
    assert_private(log_texts(caplog), tokens(canaries))


async def test_log_of_debugging_loop_is_private(sandbox, caplog):
    """Check the log of asyncio's debug mode, which contains the repr of slow tasks and futures."""
    loop = asyncio.get_running_loop()
    duration, is_debug = loop.slow_callback_duration, loop.get_debug()
    loop.slow_callback_duration = 0.0
    loop.set_debug(True)
    try:
        async with AsyncMintedConnect(USERNAME, PASSWORD, base_url=sandbox.url) as minted:
            await minted.customers.create(PERSON.customer, **PERSON.details)
            await asyncio.create_task(minted.baskets.add_item(PERSON.customer, sku=GOLD))
    finally:
        loop.slow_callback_duration = duration
        loop.set_debug(is_debug)
    assert any(record.name == "asyncio" for record in caplog.records)
    assert_private(log_texts(caplog))
