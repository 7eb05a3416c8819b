"""No name, number, address, token or password of anybody gets into a log, an error or a repr, whatever goes wrong."""

from __future__ import annotations

import asyncio
import html
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import date
from typing import Any
from urllib.parse import unquote

import pytest

from minted_connect import ApiError, MintedConnectError, Options, Shipping, Timeouts, to_dict
from minted_connect.core.request import OPERATIONS
from minted_connect.models import BasketKey
from minted_connect.sandbox import ManualClock, Sandbox
from tests.shown import local_variables, texts_of
from tests.tour import CALLS, GOLD, Person, Scene, scene
from tests.wire import Connection, WireServer

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
        zipcode="67123",
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
    "67123",
    "canary-home",
}


def assert_private(texts: Iterable[str], more: Iterable[str] = ()) -> None:
    canaries = CANARIES | set(more)
    for text in texts:
        found = {canary for canary in canaries if canary.casefold() in text.casefold()}
        assert not found, f"{found} in {text!r}"


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("minted_connect", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, name)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, arguments of the records included."""
    assert any(record.name.startswith("minted_connect") for record in caplog.records)
    # -X dev makes asyncio name the tests that hold up its loop, with their parameters.
    records = [record for record in caplog.records if "TestRunner" not in record.getMessage()]
    return [caplog.handler.format(record) + repr(record.args) for record in records]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=True)


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=clock, username=USERNAME, password=PASSWORD) as server:
        yield server


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Any:
    return await connect(sandbox.url, USERNAME, PASSWORD, options=Options(clock=clock))


@pytest.fixture
async def canaries(minted: Any, sandbox: Sandbox, clock: ManualClock) -> Scene:
    return await scene(minted, sandbox, clock, PERSON)


def tokens(prepared: Scene) -> set[str]:
    return {basket.token for basket in (prepared.buying, prepared.selling, prepared.sending)}


async def test_what_succeeds(minted, sandbox, clock, canaries, caplog):
    """Every model that comes back, every line that is logged on the way."""
    shown = [repr(canaries.buying), repr(canaries.bought), repr(canaries.buying.key), repr(minted)]
    calls = dict(CALLS)
    removal = calls.pop("customers.remove")
    completed = ("complete.buy", "complete.sell", "complete.delivery")
    emptied = {name: calls.pop(name) for name in ("baskets.delete_item", "baskets.clear", *completed)}
    for call in [*calls.values(), emptied["complete.sell"], emptied["complete.delivery"]]:
        result = await call(minted, canaries)
        shown += [repr(result), str(result)]
        for model in result if isinstance(result, tuple) else (result,):
            assert not hasattr(model, "raw") or "raw" not in repr(model)
            shown.append(repr(to_dict(model, redact=True)))
    for name in ("baskets.delete_item", "baskets.clear"):
        shown.append(repr(await emptied[name](minted, canaries)))
    await removal(minted, canaries)
    assert len(shown) > 40
    assert_private([*shown, *logged(caplog)], tokens(canaries))


def test_what_the_caller_builds():
    key = BasketKey(PERSON.customer, "T" * 32)
    assert_private([repr(PERSON.shipping), repr(key), repr(to_dict(PERSON.shipping, redact=True))], {"T" * 32})


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 400}),
    ("status", {"status": 401}),
    ("status", {"status": 403, "html": True}),
    ("status", {"status": 404}),
    ("status", {"status": 409}),
    ("status", {"status": 422}),
    ("status", {"status": 500, "commit": True}),
    ("rate_limit", {"retry_after": 3600}),
    ("success_false", {}),
    ("drop_after_commit", {}),
    ("truncate", {}),
    ("invalid_json", {}),
    ("html", {}),
    ("nan", {}),
    ("duplicate_keys", {}),
    ("empty", {}),
    ("deep", {}),
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
]


@pytest.mark.parametrize(("kind", "args"), FAULTS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(FAULTS)])
async def test_what_fails(minted, sandbox, clock, canaries, caplog, kind, args):
    """Every operation under every fault: its error, its log."""
    errors = 0
    for name, call in CALLS.items():
        operation = OPERATIONS[name]
        sandbox.faults.add(kind, method=operation.method, path=operation.path.replace("{}", "*"), times=None, **args)
        try:
            result = await call(minted, canaries)
        except MintedConnectError as error:
            errors += 1
            assert_private(texts_of(error), tokens(canaries))
        else:
            assert_private([repr(result)], tokens(canaries))
        sandbox.faults.clear()
    assert errors or kind in {"drop_field", "extra_field", "wrong_customer"}
    assert_private(logged(caplog), tokens(canaries))


# Servers that say back what they were told.


def told(first: str, body: bytes) -> str:
    """All that a request says, in one line as a debug page would show it."""
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


@pytest.mark.parametrize(("status", "echo"), ECHOES, ids=[f"{s}-{n}" for n, (s, _) in enumerate(ECHOES)])
async def test_a_server_that_says_it_back(connect, canaries, caplog, status, echo):
    async def script(connection: Connection) -> None:
        while True:
            first, _, body = await connection.request()
            connection.answer(echo(told(first, body)), status, f"X-Request-Id: {PERSON.customer} \r\n")

    errors = 0
    async with WireServer(script) as server:
        options = Options(clock=ManualClock(auto_advance=True))
        minted = await connect(server.url, USERNAME, PASSWORD, options=options)
        for call in CALLS.values():
            try:
                result = await call(minted, canaries)
            except MintedConnectError as error:
                errors += 1
                assert_private(texts_of(error), tokens(canaries))
                if isinstance(error, ApiError):
                    assert error.body is None
            else:
                assert_private([repr(result)], tokens(canaries))
    assert errors >= 15
    assert_private(logged(caplog), tokens(canaries))


@pytest.mark.parametrize("status", [401, 403])
async def test_a_server_that_names_the_user(connect, status):
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope(None, status, message=f"The user {USERNAME} may not do this.")

    async with WireServer(script) as server:
        minted = await connect(server.url, USERNAME, PASSWORD)
        with pytest.raises(ApiError) as caught:
            await minted.rates.current()
    assert_private(texts_of(caught.value))


async def test_a_server_that_shows_the_url_as_it_was_sent(connect):
    async def script(connection: Connection) -> None:
        while True:
            first, _, _ = await connection.request()
            connection.answer(f"The requested URL {first.split()[1]} was not found.".encode(), 404)

    async with WireServer(script) as server:
        minted = await connect(server.url, USERNAME, PASSWORD)
        with pytest.raises(ApiError) as caught:
            await minted.customers.get(PERSON.details["email"])  # a traceback shows this line
    assert_private(texts_of(caught.value), {"zuebeyde.w%40"})


# What a traceback holds beyond its text.


@pytest.mark.parametrize("kind", ["drop_before_read", "truncate", "html", "status", "hang"])
async def test_no_variable_of_ours_shows_a_secret(minted, sandbox, kind):
    sandbox.faults.add(kind, times=None)
    client = minted.with_options(timeouts=Timeouts(read=0.3))
    with pytest.raises(MintedConnectError) as caught:
        await client.rates.current()
    shown = local_variables(caught.value)
    assert "core/caller.py" in shown
    assert PASSWORD not in shown
    assert "Digest username" not in shown


async def test_a_debugging_loop_shows_nothing(sandbox, caplog):
    """asyncio's debug mode logs slow tasks and futures by their repr."""
    from minted_connect import AsyncMintedConnect

    asyncio.get_running_loop().slow_callback_duration = 0.0
    try:
        async with AsyncMintedConnect(USERNAME, PASSWORD, base_url=sandbox.url) as minted:
            await minted.customers.create(PERSON.customer, **PERSON.details)
            await asyncio.create_task(minted.baskets.add_item(PERSON.customer, sku=GOLD))
    finally:
        asyncio.get_running_loop().slow_callback_duration = 0.1
    assert any(record.name == "asyncio" for record in caplog.records)
    assert_private(logged(caplog))
