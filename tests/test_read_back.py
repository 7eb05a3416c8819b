"""Changes whose response is lost: sent again, read back, or refused, and never executed twice.

IDEMPOTENT: update and remove a customer; update, delete and clear a basket.
NON-IDEMPOTENT: create a customer, add a line.

row  fault                                          IDEMPOTENT    NON-IDEMPOTENT
F10  reset on a reused connection                   again         read back
F11  dropped before or after the work               again         read back
F12  dropped while the body is being written        again         read back
F13  no response in time                            read back     read back
F14  cancelled                                      raised, nothing more is sent
F16  response truncated                             read back     read back
F17  response is not a valid envelope               read back     read back
F18  response too large                             read back     read back
F19  success is false                               refused       refused
F20  a field is missing                             read back     read back
F26  404 (done, if an earlier attempt may have)     refused       refused
F27  409                                            read back     read back
F29  429 within the deadline or without a time      again         read back
F29  429 beyond the deadline                        refused       read back
F30  500    F31  502, 504    F32  503               again         read back
F33  408, 425                                       again         read back
F34  3xx                                            read back     read back
F35  endless 1xx, slow or oversized head or body    read back     read back
F36  two responses; one before the request          the connection is dropped

"again": one retry, then as "read back". "read back": the state is read, and returned if the change was executed;
otherwise the error is raised. "refused": the error is raised at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import attrs
import pytest

from minted_connect import (
    APIError,
    AsyncMintedConnect,
    BasketKey,
    CompletionPolicy,
    Conflict,
    MintedConnectError,
    NotFound,
    Options,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseTooLarge,
    ServerError,
    Timeouts,
    TransportError,
    UnexpectedRedirect,
    ValidationFailed,
)
from minted_connect.models import Basket
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD, SILVER
from tests.support.raw_server import Connection, WireServer

AGAIN, READ_BACK, REFUSED = "again", "read back", "refused"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A server whose own time stands still: what it delays, it delays for ever."""
    async with Sandbox(seed=1, clock=ManualClock()) as server:
        yield server


def swift() -> Options:
    return Options(clock=ManualClock(auto_advance=True))


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox) -> Any:
    client = await connect(sandbox.url, sandbox.username, sandbox.password, options=swift())
    await client.rates.current()  # so that no challenge is counted below
    return client


# The changes.


def person(sandbox: Sandbox, customer: str) -> dict[str, str | None] | None:
    return next((one.person for one in sandbox.shop.customers if one.external_id == customer), None)


def lines(sandbox: Sandbox, customer: str) -> list[tuple[str, int]]:
    [owner] = [one.id for one in sandbox.shop.customers if one.external_id == customer]
    return [
        (item.sku, item.amount) for basket in sandbox.shop.baskets if basket.customer == owner for item in basket.items
    ]


@attrs.frozen
class Change:
    """One change of one customer's things, and how to tell on the server whether it was made."""

    name: str
    method: str
    path: str
    call: Callable[[Any, str, Basket], Any]
    made: Callable[[Sandbox, str], bool]
    shown: Callable[[Any], bool]
    adds: bool = False

    @property
    def required(self) -> str:
        """A required field of its response."""
        return "external_id" if "customers" in self.name else "paid_total"


_BASKET = "/partner/walletable/basket"
BEFORE = [(GOLD, 1), (SILVER, 1)]
UPDATE_CUSTOMER = Change(
    "customers.update",
    "PATCH",
    "/partner/customer/*",
    lambda m, c, b: m.customers.update(c, lastname="Changed"),
    lambda s, c: person(s, c)["lastname"] == "Changed",
    lambda customer: customer.lastname == "Changed",
)
REMOVE_CUSTOMER = Change(
    "customers.remove",
    "DELETE",
    "/partner/customer/*",
    lambda m, c, b: m.customers.remove(c),
    lambda s, c: person(s, c) is None,
    lambda nothing: nothing is None,
)
UPDATE_ITEM = Change(
    "baskets.update_item",
    "PATCH",
    _BASKET,
    lambda m, c, b: m.baskets.update_item(b, sku=GOLD, qty=3),
    lambda s, c: lines(s, c) == [(GOLD, 3), (SILVER, 1)],
    lambda basket: basket.items[0].amount == 3,
)
DELETE_ITEM = Change(
    "baskets.delete_item",
    "DELETE",
    _BASKET,
    lambda m, c, b: m.baskets.delete_item(b, sku=GOLD),
    lambda s, c: lines(s, c) == [(SILVER, 1)],
    lambda basket: [item.sku for item in basket.items] == [SILVER],
)
CLEAR = Change(
    "baskets.clear",
    "DELETE",
    f"{_BASKET}/empty",
    lambda m, c, b: m.baskets.clear(b),
    lambda s, c: lines(s, c) == [],
    lambda basket: basket.items == (),
)
CREATE_CUSTOMER = Change(
    "customers.create",
    "POST",
    "/partner/customer",
    lambda m, c, b: m.customers.create(f"{c}-new", firstname="Grace", lastname="Hopper"),
    lambda s, c: person(s, f"{c}-new") is not None,
    lambda customer: customer.fullname == "Grace Hopper",
    adds=True,
)
ADD_ITEM = Change(
    "baskets.add_item",
    "POST",
    _BASKET,
    lambda m, c, b: m.baskets.add_item(b, sku=SILVER, qty=2),
    lambda s, c: lines(s, c) == [*BEFORE, (SILVER, 2)],
    lambda basket: [(item.sku, item.amount) for item in basket.items] == [*BEFORE, (SILVER, 2)],
    adds=True,
)
SETS = (UPDATE_CUSTOMER, REMOVE_CUSTOMER, UPDATE_ITEM, DELETE_ITEM, CLEAR)
ADDS = (CREATE_CUSTOMER, ADD_ITEM)


@attrs.frozen
class Case:
    """One row of the matrix, played by one fault of the sandbox."""

    row: str
    kind: str
    error: type[MintedConnectError]
    sets: str
    adds: str
    made: bool = False
    """Whether the server does the work all the same."""
    slow: bool = False
    """Whether it takes a timeout to notice."""
    args: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return "-".join([self.row, self.kind, *(str(value) for value in self.args.values()), "made" * self.made])


def both(row: str, kind: str, error: type[MintedConnectError], sets: str, adds: str, **args: Any) -> list[Case]:
    """The same fault before and after the work."""
    return [Case(row, kind, error, sets, adds, made, args={**args, "commit": made}) for made in (False, True)]


CASES = [
    Case("F10", "drop_before_read", TransportError, AGAIN, READ_BACK, args={"reset": True}),
    Case("F11", "drop_before_read", TransportError, AGAIN, READ_BACK),
    Case("F11", "drop_after_commit", TransportError, AGAIN, READ_BACK, made=True),
    Case("F11", "drop_after_commit", TransportError, AGAIN, READ_BACK, made=True, args={"reset": True}),
    *[attrs.evolve(case, slow=True) for case in both("F13", "hang", RequestTimeout, READ_BACK, READ_BACK)],
    Case("F13", "delay", RequestTimeout, READ_BACK, READ_BACK, slow=True),
    Case("F13", "delay_after_commit", RequestTimeout, READ_BACK, READ_BACK, made=True, slow=True),
    Case("F16", "truncate", TransportError, READ_BACK, READ_BACK, made=True),
    Case("F16", "truncate", TransportError, READ_BACK, READ_BACK, made=True, args={"chunked": True}),
    *both("F17", "html", ProtocolError, READ_BACK, READ_BACK),
    *[
        Case("F17", kind, ProtocolError, READ_BACK, READ_BACK, made=True)
        for kind in ("invalid_json", "empty", "nan", "deep", "duplicate_keys")
    ],
    *[Case("F18", kind, ResponseTooLarge, READ_BACK, READ_BACK, made=True) for kind in ("too_large", "gzip_bomb")],
    *both("F19", "success_false", APIError, REFUSED, REFUSED),
    *both("F26", "status", NotFound, REFUSED, REFUSED, status=404),
    *both("F27", "status", Conflict, READ_BACK, READ_BACK, status=409),
    Case("F29", "rate_limit", RateLimited, AGAIN, READ_BACK, args={"retry_after": 5}),
    Case("F29", "rate_limit", RateLimited, AGAIN, READ_BACK, args={"retry_after": None}),
    Case("F29", "rate_limit", RateLimited, REFUSED, READ_BACK, args={"retry_after": 3600}),
    *both("F30", "status", ServerError, AGAIN, READ_BACK, status=500),
    *both("F31", "status", ServerError, AGAIN, READ_BACK, status=502, html=True),
    Case("F31", "status", ServerError, AGAIN, READ_BACK, args={"status": 504, "envelope": False}),
    *both("F32", "status", ServerError, AGAIN, READ_BACK, status=503, retry_after=2),
    *both("F33", "status", APIError, AGAIN, READ_BACK, status=408),
    Case("F33", "status", APIError, AGAIN, READ_BACK, args={"status": 425}),
    *both("F34", "redirect", UnexpectedRedirect, READ_BACK, READ_BACK),
    Case("F35", "slow_loris", RequestTimeout, READ_BACK, READ_BACK, made=True, slow=True),
    Case("F35", "slow_loris", RequestTimeout, READ_BACK, READ_BACK, made=True, slow=True, args={"where": "head"}),
    Case("F35", "many_headers", ProtocolError, READ_BACK, READ_BACK, made=True),
    Case("F35", "long_header", ProtocolError, READ_BACK, READ_BACK, made=True),
]


async def prepared(minted: Any, sandbox: Sandbox, customer: str, *, lag: float = 0.0) -> Basket | None:
    owner = sandbox.shop.create_customer(sandbox.username, customer, {"lastname": "Before"})
    for sku, amount in BEFORE:
        sandbox.shop.add_item(owner, sku, amount)
    if lag:
        sandbox.clock.advance(lag)
    return await minted.baskets.get_active(customer)


def counts(sandbox: Sandbox, change: Change, customer: str) -> tuple[int, int]:
    """Return how often the change was sent, and how often the customer's data were read."""
    reads = [e for e in sandbox.requests if e.method == "GET" and customer in f"{e.path} {e.query}"]
    return len(sandbox.requests.of(change.name)), len(reads)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_every_change_under_every_fault(minted, sandbox, case):
    client = minted.with_options(timeouts=Timeouts(read=0.5)) if case.slow else minted

    async def play(change: Change) -> None:
        customer = customers[change.name]
        reaction = case.adds if change.adds else case.sets
        succeeds = reaction is AGAIN or (reaction is READ_BACK and case.made)
        if succeeds:
            assert change.shown(await change.call(client, customer, baskets[change.name])), change.name
        else:
            with pytest.raises(case.error) as caught:
                await change.call(client, customer, baskets[change.name])
            assert caught.value.attempts == 1, change.name
        assert change.made(sandbox, customer) is (succeeds or case.made), change.name
        expected = {AGAIN: (2, 0), READ_BACK: (1, 1), REFUSED: (1, 0)}[reaction]
        assert counts(sandbox, change, customer) == expected, change.name

    changes = [change for change in (*SETS, *ADDS) if not (change is DELETE_ITEM and case.made and case.sets is AGAIN)]
    customers = {change.name: f"customer-{change.name.replace('.', '-')}" for change in changes}
    baskets = {change.name: await prepared(minted, sandbox, customers[change.name]) for change in changes}
    sandbox.requests.clear()
    for change in changes:
        sandbox.faults.add(case.kind, method=change.method, path=change.path, **case.args)
    if case.slow:
        await asyncio.gather(*(play(change) for change in changes))
    else:
        for change in changes:
            await play(change)


@pytest.mark.parametrize("change", [*SETS, *ADDS], ids=lambda change: change.name)
@pytest.mark.parametrize("made", [True, False])
async def test_a_change_is_looked_for_until_reads_that_are_behind_would_show_it(connect, change, made):  # F45
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock, reads_lag=8) as behind:
        options = Options(clock=clock, completion=CompletionPolicy(orders_lag=10))
        minted = await connect(behind.url, behind.username, behind.password, options=options)
        await prepared(minted, behind, "customer-1", lag=8)
        basket = await minted.baskets.get_active("customer-1")
        behind.requests.clear()
        behind.faults.add("redirect", method=change.method, path=change.path, commit=made)
        begun = clock.monotonic()
        if made:
            assert change.shown(await change.call(minted, "customer-1", basket))
            assert 8 <= clock.monotonic() - begun <= 10
        else:
            with pytest.raises(UnexpectedRedirect):
                await change.call(minted, "customer-1", basket)
            assert clock.monotonic() - begun == 10
        assert change.made(behind, "customer-1") is made
        assert len(behind.requests.of(change.name)) == 1
        assert clock.monotonic() - begun <= 10


async def test_an_addition_without_a_basket_is_not_looked_for(connect):
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock) as server:
        options = Options(clock=clock, completion=CompletionPolicy(orders_lag=10))
        minted = await connect(server.url, server.username, server.password, options=options)
        basket = await prepared(minted, server, "customer-1")
        for known in ("customer-1", basket.key):
            server.requests.clear()
            server.faults.add("redirect", method="POST")
            with pytest.raises(UnexpectedRedirect):
                await minted.baskets.add_item(known, sku=GOLD)
            assert [entry.method for entry in server.requests] == ["POST"]
        assert clock.sleeps == []


@pytest.mark.parametrize("bound", ["inline_looks", "deadline"])
async def test_looking_for_a_change_is_bounded(connect, bound):
    clock = ManualClock(auto_advance=True)
    policy = CompletionPolicy(inline_looks=3) if bound == "inline_looks" else CompletionPolicy()
    async with Sandbox(seed=1, clock=clock) as server:
        minted = await connect(
            server.url, server.username, server.password, options=Options(clock=clock, completion=policy)
        )
        basket = await prepared(minted, server, "customer-1")
        client = minted if bound == "inline_looks" else minted.with_options(deadline=4)
        server.faults.add("redirect", method="PATCH")
        begun = clock.monotonic()
        with pytest.raises(UnexpectedRedirect):
            await client.baskets.update_item(basket, sku=GOLD, qty=3)
        assert clock.monotonic() - begun <= 4


async def test_the_server_says_when_to_try_again(connect, sandbox):
    clock = ManualClock(auto_advance=True)
    minted = await connect(
        sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock, random=lambda: 0.5)
    )
    basket = await prepared(minted, sandbox, "customer-1")
    for kind, args, pause in (
        ("rate_limit", {"retry_after": 5}, 5.0),
        ("rate_limit", {"retry_after": None}, 0.25),
        ("status", {"status": 503, "retry_after": 2}, 2.0),
        ("drop_before_read", {}, 0.25),
    ):
        clock.sleeps.clear()
        sandbox.faults.add(kind, **args)
        await minted.baskets.update_item(basket, sku=GOLD, qty=4)
        assert clock.sleeps == [pause]


@pytest.mark.parametrize("kind", ["drop_before_read", "drop_after_commit"])
async def test_a_change_that_fails_again_is_read_back(minted, sandbox, kind):
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add(kind, method="PATCH", times=2)
    if kind == "drop_after_commit":
        assert UPDATE_ITEM.shown(await UPDATE_ITEM.call(minted, "customer-1", basket))
    else:
        with pytest.raises(TransportError) as caught:
            await UPDATE_ITEM.call(minted, "customer-1", basket)
        assert caught.value.attempts == 2
    assert counts(sandbox, UPDATE_ITEM, "customer-1") == (2, 1)


@pytest.mark.parametrize("change", [*SETS, *ADDS], ids=lambda change: change.name)
async def test_when_reading_back_fails_too_the_first_error_stands(minted, sandbox, change):
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.faults.add("truncate", method=change.method, path=change.path)
    sandbox.faults.add("status", method="GET", status=500, times=None)
    with pytest.raises(TransportError):
        await change.call(minted, "customer-1", basket)
    assert change.made(sandbox, "customer-1")


@pytest.mark.parametrize("change", [*SETS, *ADDS], ids=lambda change: change.name)
async def test_a_missing_field_is_read_back(minted, sandbox, change):  # F20
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("drop_field", method=change.method, field=change.required)
    assert change.shown(await change.call(minted, "customer-1", basket))
    assert change.made(sandbox, "customer-1")
    # The response to a removal has no required field.
    assert counts(sandbox, change, "customer-1") == (1, int(change is not REMOVE_CUSTOMER))


async def test_an_unknown_value_is_no_fault(minted, sandbox):  # F20
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("extra_field", method="PATCH", field="status_name", value="Levitating")
    changed = await UPDATE_ITEM.call(minted, "customer-1", basket)
    assert changed.status == "Levitating"
    assert counts(sandbox, UPDATE_ITEM, "customer-1") == (1, 0)


async def test_a_removal_that_finds_nothing_the_second_time_was_done_the_first(minted, sandbox):  # F26
    await prepared(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("drop_after_commit", method="DELETE")
    assert await minted.customers.remove("customer-1") is None
    assert [entry.status for entry in sandbox.requests.of("customers.remove")] == [None, 404]


AFTER_THE_WORK = [("drop_after_commit", {}), ("status", {"status": 500, "commit": True})]


# Faults that `test_every_change_under_every_fault` does not cover.
@pytest.mark.parametrize(("kind", "args"), AFTER_THE_WORK, ids=["dropped", "500"])
async def test_a_line_that_is_gone_the_second_time_was_deleted_the_first(minted, sandbox, kind, args):
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.faults.add(kind, method="DELETE", **args)
    changed = await minted.baskets.delete_item(basket, sku=GOLD)
    assert [item.sku for item in changed.items] == [SILVER]


async def test_a_422_to_the_first_try_is_an_error(minted, sandbox):
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    with pytest.raises(ValidationFailed) as caught:
        await minted.baskets.delete_item(basket, sku="MNTBAE0002")
    assert not caught.value.after_unknown
    assert len(sandbox.requests) == 1


# Adding, where nothing tells the new from the old.


@pytest.mark.parametrize("named", [lambda b: b.customer.external_id, lambda b: b.key], ids=["customer", "key"])
async def test_without_a_known_before_nothing_proves_a_new_line(minted, sandbox, named):
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("drop_after_commit", method="POST")
    with pytest.raises(TransportError) as caught:
        await minted.baskets.add_item(named(basket), sku=GOLD)
    assert not caught.value.safe_to_retry
    assert lines(sandbox, "customer-1") == [*BEFORE, (GOLD, 1)]
    assert len(sandbox.requests) == 1


async def test_a_stale_before_proves_nothing_either(minted, sandbox):
    basket = await prepared(minted, sandbox, "customer-1")
    await minted.baskets.add_item(basket, sku=GOLD)
    sandbox.faults.add("drop_before_read", method="POST")
    with pytest.raises(TransportError):
        await minted.baskets.add_item(basket, sku=GOLD, qty=2)
    assert lines(sandbox, "customer-1") == [*BEFORE, (GOLD, 1)]


async def test_a_customer_of_another_name_is_not_the_one_created(minted, sandbox):
    await minted.customers.create("customer-1", firstname="Somebody")
    sandbox.faults.add("drop_before_read", method="POST")
    with pytest.raises(TransportError):
        await minted.customers.create("customer-1", firstname="Grace")
    assert person(sandbox, "customer-1")["firstname"] == "Somebody"


async def test_after_a_502_a_taken_id_is_the_new_customer_only_if_everything_sent_is_shown(minted, sandbox):
    await minted.customers.create("customer-1", firstname="Grace", lastname="Hopper")
    for details, found in (({"firstname": "Grace"}, True), ({"firstname": "Grace", "email": "g@mail.example"}, False)):
        sandbox.faults.add("status", method="POST", status=502)
        if found:  # as documented: nothing tells it from the new one
            assert (await minted.customers.create("customer-1", **details)).lastname == "Hopper"
        else:
            with pytest.raises(ServerError):
                await minted.customers.create("customer-1", **details)


async def test_what_get_customer_does_not_show_is_not_compared(minted, sandbox):
    sandbox.faults.add("drop_after_commit", method="POST")
    customer = await minted.customers.create("customer-1", firstname="Grace", account_type="company")
    assert customer.firstname == "Grace"


async def test_a_basket_that_is_gone_proves_nothing(minted, sandbox):
    await minted.customers.create("customer-1")
    sandbox.faults.add("status", method="PATCH", status=409)
    with pytest.raises(Conflict):
        await minted.baskets.update_item(BasketKey("customer-1", "T" * 32), sku=GOLD, qty=1)


# Cancelled: F14.


@pytest.mark.parametrize("change", [UPDATE_ITEM, ADD_ITEM, CREATE_CUSTOMER], ids=lambda change: change.name)
async def test_a_cancelled_change_sends_nothing_more(sandbox, change):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        basket = await prepared(minted, sandbox, "customer-1")
        sandbox.requests.clear()
        fault = sandbox.faults.add("hang", commit=True)
        task = asyncio.create_task(change.call(minted, "customer-1", basket))
        while not fault.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sandbox.faults.clear()
        assert await minted.baskets.get_active("customer-1") is not None
        assert [entry.operation for entry in sandbox.requests] == [change.name, "baskets.get_active"]
        assert change.made(sandbox, "customer-1")


@pytest.mark.parametrize("change", ADDS, ids=lambda change: change.name)
async def test_a_cancelled_addition_says_that_it_may_have_happened(sandbox, change):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        basket = await prepared(minted, sandbox, "customer-1")
        fault = sandbox.faults.add("hang")
        task = asyncio.create_task(change.call(minted, "customer-1", basket))
        while not fault.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert any("may have" in note for note in caught.value.__notes__)


# Faults that the sandbox does not have: a server of customers, on plain sockets.

CHANGED = {"external_id": "customer-1", "lastname": "Changed"}
BIG = "x" * 12_000_000
"""More than any socket buffers, so that its writing is interrupted."""


async def test_dropped_while_the_body_is_written(connect):  # F12
    async def script(connection: Connection) -> None:
        while True:
            head = (await connection.reader.readuntil(b"\r\n\r\n")).decode()
            heads.append(head.split()[0])
            if head.startswith("GET"):
                connection.envelope({**CHANGED, "email": BIG})
            else:
                await connection.reset()
                return

    heads: list[str] = []
    async with WireServer(script) as server:
        options = Options(clock=ManualClock(auto_advance=True), max_body=2 * len(BIG))
        minted = await connect(server.url, options=options)
        customer = await minted.customers.update("customer-1", lastname="Changed", email=BIG)
        assert (heads, customer.lastname) == (["PATCH", "PATCH", "GET"], "Changed")
        heads.clear()
        customer = await minted.customers.create("customer-1", lastname="Changed", email=BIG)
        assert (heads, customer.lastname) == (["POST", "GET"], "Changed")


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda connection: connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50),
        lambda connection: connection.send(b"HTTP/1.1 200 OK\r\nX: "),
        lambda connection: connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    ],
    ids=["endless 1xx", "head without end", "body without end"],
)
async def test_an_answer_that_never_ends(connect, spoilt):  # F35
    async def script(connection: Connection) -> None:
        while True:
            first, _, _ = await connection.request()
            if first.startswith("GET"):
                connection.envelope(CHANGED)
            else:
                spoilt(connection)

    async with WireServer(script) as server:
        minted = await connect(server.url, options=swift(), timeouts=Timeouts(read=0.3))
        assert (await minted.customers.update("customer-1", lastname="Changed")).lastname == "Changed"
        assert (await minted.customers.create("customer-1", lastname="Changed")).lastname == "Changed"
    assert [first.split()[0] for first, _, _ in server.requests] == ["PATCH", "GET", "POST", "GET"]


async def test_of_two_answers_the_second_answers_nothing(minted, sandbox):  # F36
    basket = await prepared(minted, sandbox, "customer-1")
    sandbox.faults.add("two_answers", method="PATCH", times=3)
    for qty in (2, 3, 4):
        changed = await minted.baskets.update_item(basket, sku=GOLD, qty=qty)
        assert changed.items[0].amount == qty
    assert (await minted.rates.current())[0].metal_type == "gold"


async def test_an_answer_before_the_request_answers_nothing(connect):  # F36
    unasked = anyio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        connection.envelope(CHANGED)
        if connection.number == 0:
            await connection.writer.drain()
            await unasked.wait()
            connection.envelope({"external_id": "customer-1", "lastname": "unasked"})
            await connection.writer.drain()
            heard.set()
        await connection.request()
        connection.envelope(CHANGED)

    heard = anyio.Event()
    async with WireServer(script) as server:
        minted = await connect(server.url, options=swift())
        await minted.customers.update("customer-1", lastname="Changed")
        unasked.set()
        await heard.wait()
        for _ in range(10):  # the loop takes in what has arrived
            await asyncio.sleep(0)
        assert (await minted.customers.update("customer-1", lastname="Changed")).lastname == "Changed"
