"""Changes whose response is lost: sent again, read back, or refused, and never executed twice.

Idempotent: update and remove a customer; update, delete and clear a basket.
Not idempotent: create a customer, add a line.

row  fault                                          idempotent    not idempotent
F10  reset on a reused connection                   retry         read back
F11  dropped before or after execution              retry         read back
F12  dropped while the body is being written        retry         read back
F13  no response in time                            read back     read back
F14  cancelled                                      raised, nothing more is sent
F16  response truncated                             read back     read back
F17  response is not a valid envelope               read back     read back
F18  response too large                             read back     read back
F19  success is false                               refused       refused
F20  a field is missing                             read back     read back
F26  404 (done, if an earlier attempt may have)     refused       refused
F27  409                                            read back     read back
F29  429 within the deadline or without a time      retry         read back
F29  429 beyond the deadline                        refused       read back
F30  500    F31  502, 504    F32  503               retry         read back
F33  408, 425                                       retry         read back
F34  3xx                                            read back     read back
F35  endless 1xx, slow or oversized head or body    read back     read back
F36  two responses; one before the request          the connection is dropped

"retry": one retry, then as "read back". "read back": the state is read, and returned if the change was executed;
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
from tests.support.raw_server import Connection, RawServer

RETRY, READ_BACK, REFUSED = "retry", "read back", "refused"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a server whose clock stands still, so that delayed work is never done."""
    async with Sandbox(seed=1, clock=ManualClock()) as server:
        yield server


def without_waits() -> Options:
    return Options(clock=ManualClock(auto_advance=True))


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox) -> Any:
    client = await connect(sandbox.url, sandbox.username, sandbox.password, options=without_waits())
    await client.rates.current()  # the challenge must not be counted below
    return client


# The changes.


def stored_person(sandbox: Sandbox, customer: str) -> dict[str, str | None] | None:
    return next((stored.person for stored in sandbox.shop.customers if stored.external_id == customer), None)


def stored_items(sandbox: Sandbox, customer: str) -> list[tuple[str, int]]:
    [owner] = [stored.id for stored in sandbox.shop.customers if stored.external_id == customer]
    return [
        (item.sku, item.amount) for basket in sandbox.shop.baskets if basket.customer == owner for item in basket.items
    ]


@attrs.frozen
class Change:
    """A change of one customer's data, and a check whether the server executed it."""

    name: str
    method: str
    path: str
    call: Callable[[Any, str, Basket], Any]
    executed: Callable[[Sandbox, str], bool]
    is_shown: Callable[[Any], bool]
    adds: bool = False

    @property
    def required(self) -> str:
        """A required field of the response."""
        return "external_id" if "customers" in self.name else "paid_total"


_BASKET = "/partner/walletable/basket"
BEFORE = [(GOLD, 1), (SILVER, 1)]
UPDATE_CUSTOMER = Change(
    "customers.update",
    "PATCH",
    "/partner/customer/*",
    lambda m, c, b: m.customers.update(c, lastname="Changed"),
    lambda s, c: stored_person(s, c)["lastname"] == "Changed",
    lambda customer: customer.lastname == "Changed",
)
REMOVE_CUSTOMER = Change(
    "customers.remove",
    "DELETE",
    "/partner/customer/*",
    lambda m, c, b: m.customers.remove(c),
    lambda s, c: stored_person(s, c) is None,
    lambda result: result is None,
)
UPDATE_ITEM = Change(
    "baskets.update_item",
    "PATCH",
    _BASKET,
    lambda m, c, b: m.baskets.update_item(b, sku=GOLD, qty=3),
    lambda s, c: stored_items(s, c) == [(GOLD, 3), (SILVER, 1)],
    lambda basket: basket.items[0].amount == 3,
)
DELETE_ITEM = Change(
    "baskets.delete_item",
    "DELETE",
    _BASKET,
    lambda m, c, b: m.baskets.delete_item(b, sku=GOLD),
    lambda s, c: stored_items(s, c) == [(SILVER, 1)],
    lambda basket: [item.sku for item in basket.items] == [SILVER],
)
CLEAR = Change(
    "baskets.clear",
    "DELETE",
    f"{_BASKET}/empty",
    lambda m, c, b: m.baskets.clear(b),
    lambda s, c: stored_items(s, c) == [],
    lambda basket: basket.items == (),
)
CREATE_CUSTOMER = Change(
    "customers.create",
    "POST",
    "/partner/customer",
    lambda m, c, b: m.customers.create(f"{c}-new", firstname="Grace", lastname="Hopper"),
    lambda s, c: stored_person(s, f"{c}-new") is not None,
    lambda customer: customer.fullname == "Grace Hopper",
    adds=True,
)
ADD_ITEM = Change(
    "baskets.add_item",
    "POST",
    _BASKET,
    lambda m, c, b: m.baskets.add_item(b, sku=SILVER, qty=2),
    lambda s, c: stored_items(s, c) == [*BEFORE, (SILVER, 2)],
    lambda basket: [(item.sku, item.amount) for item in basket.items] == [*BEFORE, (SILVER, 2)],
    adds=True,
)
IDEMPOTENT = (UPDATE_CUSTOMER, REMOVE_CUSTOMER, UPDATE_ITEM, DELETE_ITEM, CLEAR)
NON_IDEMPOTENT = (CREATE_CUSTOMER, ADD_ITEM)


@attrs.frozen
class Case:
    """A row of the table above, produced by one fault of the sandbox."""

    row: str
    kind: str
    error: type[MintedConnectError]
    idempotent: str
    adds: str
    executed: bool = False
    """Whether the server executes the change in spite of the fault."""
    slow: bool = False
    """Whether the client notices the fault by a timeout only."""
    args: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return "-".join(
            [self.row, self.kind, *(str(value) for value in self.args.values()), "executed" * self.executed]
        )


def before_and_after(
    row: str, kind: str, error: type[MintedConnectError], idempotent: str, adds: str, **args: Any
) -> list[Case]:
    """Return the same fault before and after the execution."""
    return [
        Case(row, kind, error, idempotent, adds, executed, args={**args, "commit": executed})
        for executed in (False, True)
    ]


CASES = [
    Case("F10", "drop_before_read", TransportError, RETRY, READ_BACK, args={"reset": True}),
    Case("F11", "drop_before_read", TransportError, RETRY, READ_BACK),
    Case("F11", "drop_after_commit", TransportError, RETRY, READ_BACK, executed=True),
    Case("F11", "drop_after_commit", TransportError, RETRY, READ_BACK, executed=True, args={"reset": True}),
    *[attrs.evolve(case, slow=True) for case in before_and_after("F13", "hang", RequestTimeout, READ_BACK, READ_BACK)],
    Case("F13", "delay", RequestTimeout, READ_BACK, READ_BACK, slow=True),
    Case("F13", "delay_after_commit", RequestTimeout, READ_BACK, READ_BACK, executed=True, slow=True),
    Case("F16", "truncate", TransportError, READ_BACK, READ_BACK, executed=True),
    Case("F16", "truncate", TransportError, READ_BACK, READ_BACK, executed=True, args={"chunked": True}),
    *before_and_after("F17", "html", ProtocolError, READ_BACK, READ_BACK),
    *[
        Case("F17", kind, ProtocolError, READ_BACK, READ_BACK, executed=True)
        for kind in ("invalid_json", "empty", "nan", "deep", "duplicate_keys")
    ],
    *[Case("F18", kind, ResponseTooLarge, READ_BACK, READ_BACK, executed=True) for kind in ("too_large", "gzip_bomb")],
    *before_and_after("F19", "success_false", APIError, REFUSED, REFUSED),
    *before_and_after("F26", "status", NotFound, REFUSED, REFUSED, status=404),
    *before_and_after("F27", "status", Conflict, READ_BACK, READ_BACK, status=409),
    Case("F29", "rate_limit", RateLimited, RETRY, READ_BACK, args={"retry_after": 5}),
    Case("F29", "rate_limit", RateLimited, RETRY, READ_BACK, args={"retry_after": None}),
    Case("F29", "rate_limit", RateLimited, REFUSED, READ_BACK, args={"retry_after": 3600}),
    *before_and_after("F30", "status", ServerError, RETRY, READ_BACK, status=500),
    *before_and_after("F31", "status", ServerError, RETRY, READ_BACK, status=502, html=True),
    Case("F31", "status", ServerError, RETRY, READ_BACK, args={"status": 504, "envelope": False}),
    *before_and_after("F32", "status", ServerError, RETRY, READ_BACK, status=503, retry_after=2),
    *before_and_after("F33", "status", APIError, RETRY, READ_BACK, status=408),
    Case("F33", "status", APIError, RETRY, READ_BACK, args={"status": 425}),
    *before_and_after("F34", "redirect", UnexpectedRedirect, READ_BACK, READ_BACK),
    Case("F35", "slow_loris", RequestTimeout, READ_BACK, READ_BACK, executed=True, slow=True),
    Case("F35", "slow_loris", RequestTimeout, READ_BACK, READ_BACK, executed=True, slow=True, args={"where": "head"}),
    Case("F35", "many_headers", ProtocolError, READ_BACK, READ_BACK, executed=True),
    Case("F35", "long_header", ProtocolError, READ_BACK, READ_BACK, executed=True),
]


async def prepare_basket(minted: Any, sandbox: Sandbox, customer: str, *, lag: float = 0.0) -> Basket | None:
    owner = sandbox.shop.create_customer(sandbox.username, customer, {"lastname": "Before"})
    for sku, amount in BEFORE:
        sandbox.shop.add_item(owner, sku, amount)
    if lag:
        sandbox.clock.advance(lag)
    return await minted.baskets.get_active(customer)


def counts(sandbox: Sandbox, change: Change, customer: str) -> tuple[int, int]:
    """Return how often the change was sent, and how often the customer's data were read."""
    reads = [entry for entry in sandbox.requests if entry.method == "GET" and customer in f"{entry.path} {entry.query}"]
    return len(sandbox.requests.of(change.name)), len(reads)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_change_under_every_fault_is_executed_at_most_once(minted, sandbox, case):
    client = minted.with_options(timeouts=Timeouts(read=0.5)) if case.slow else minted

    async def check_change(change: Change) -> None:
        customer = customers[change.name]
        reaction = case.adds if change.adds else case.idempotent
        succeeds = reaction is RETRY or (reaction is READ_BACK and case.executed)
        if succeeds:
            assert change.is_shown(await change.call(client, customer, baskets[change.name])), change.name
        else:
            with pytest.raises(case.error) as caught:
                await change.call(client, customer, baskets[change.name])
            assert caught.value.attempts == 1, change.name
        assert change.executed(sandbox, customer) is (succeeds or case.executed), change.name
        expected = {RETRY: (2, 0), READ_BACK: (1, 1), REFUSED: (1, 0)}[reaction]
        assert counts(sandbox, change, customer) == expected, change.name

    changes = [
        change
        for change in (*IDEMPOTENT, *NON_IDEMPOTENT)
        if not (change is DELETE_ITEM and case.executed and case.idempotent is RETRY)
    ]
    customers = {change.name: f"customer-{change.name.replace('.', '-')}" for change in changes}
    baskets = {change.name: await prepare_basket(minted, sandbox, customers[change.name]) for change in changes}
    sandbox.requests.clear()
    for change in changes:
        sandbox.faults.add(case.kind, method=change.method, path=change.path, **case.args)
    if case.slow:
        await asyncio.gather(*(check_change(change) for change in changes))
    else:
        for change in changes:
            await check_change(change)


@pytest.mark.parametrize("change", [*IDEMPOTENT, *NON_IDEMPOTENT], ids=lambda change: change.name)
@pytest.mark.parametrize("executed", [True, False])
async def test_read_back_polls_until_delayed_reads_show_the_change(connect, change, executed):  # F45
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock, reads_lag=8) as server:
        options = Options(clock=clock, completion=CompletionPolicy(orders_lag=10))
        minted = await connect(server.url, server.username, server.password, options=options)
        await prepare_basket(minted, server, "customer-1", lag=8)
        basket = await minted.baskets.get_active("customer-1")
        server.requests.clear()
        server.faults.add("redirect", method=change.method, path=change.path, commit=executed)
        started = clock.monotonic()
        if executed:
            assert change.is_shown(await change.call(minted, "customer-1", basket))
            assert 8 <= clock.monotonic() - started <= 10
        else:
            with pytest.raises(UnexpectedRedirect):
                await change.call(minted, "customer-1", basket)
            assert clock.monotonic() - started == 10
        assert change.executed(server, "customer-1") is executed
        assert len(server.requests.of(change.name)) == 1
        assert clock.monotonic() - started <= 10


async def test_add_item_without_basket_is_not_read_back(connect):
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock) as server:
        options = Options(clock=clock, completion=CompletionPolicy(orders_lag=10))
        minted = await connect(server.url, server.username, server.password, options=options)
        basket = await prepare_basket(minted, server, "customer-1")
        for known in ("customer-1", basket.key):
            server.requests.clear()
            server.faults.add("redirect", method="POST")
            with pytest.raises(UnexpectedRedirect):
                await minted.baskets.add_item(known, sku=GOLD)
            assert [entry.method for entry in server.requests] == ["POST"]
        assert clock.sleeps == []


@pytest.mark.parametrize("bound", ["inline_looks", "deadline"])
async def test_read_back_ends_at_inline_looks_or_deadline(connect, bound):
    clock = ManualClock(auto_advance=True)
    policy = CompletionPolicy(inline_looks=3) if bound == "inline_looks" else CompletionPolicy()
    async with Sandbox(seed=1, clock=clock) as server:
        minted = await connect(
            server.url, server.username, server.password, options=Options(clock=clock, completion=policy)
        )
        basket = await prepare_basket(minted, server, "customer-1")
        client = minted if bound == "inline_looks" else minted.with_options(deadline=4)
        server.faults.add("redirect", method="PATCH")
        started = clock.monotonic()
        with pytest.raises(UnexpectedRedirect):
            await client.baskets.update_item(basket, sku=GOLD, qty=3)
        assert clock.monotonic() - started <= 4


async def test_change_is_retried_after_retry_after_or_backoff(connect, sandbox):
    clock = ManualClock(auto_advance=True)
    minted = await connect(
        sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock, random=lambda: 0.5)
    )
    basket = await prepare_basket(minted, sandbox, "customer-1")
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
async def test_change_that_fails_twice_is_read_back(minted, sandbox, kind):
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add(kind, method="PATCH", times=2)
    if kind == "drop_after_commit":
        assert UPDATE_ITEM.is_shown(await UPDATE_ITEM.call(minted, "customer-1", basket))
    else:
        with pytest.raises(TransportError) as caught:
            await UPDATE_ITEM.call(minted, "customer-1", basket)
        assert caught.value.attempts == 2
    assert counts(sandbox, UPDATE_ITEM, "customer-1") == (2, 1)


@pytest.mark.parametrize("change", [*IDEMPOTENT, *NON_IDEMPOTENT], ids=lambda change: change.name)
async def test_failed_read_back_raises_the_first_error(minted, sandbox, change):
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.faults.add("truncate", method=change.method, path=change.path)
    sandbox.faults.add("status", method="GET", status=500, times=None)
    with pytest.raises(TransportError):
        await change.call(minted, "customer-1", basket)
    assert change.executed(sandbox, "customer-1")


@pytest.mark.parametrize("change", [*IDEMPOTENT, *NON_IDEMPOTENT], ids=lambda change: change.name)
async def test_response_without_required_field_is_read_back(minted, sandbox, change):  # F20
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("drop_field", method=change.method, field=change.required)
    assert change.is_shown(await change.call(minted, "customer-1", basket))
    assert change.executed(sandbox, "customer-1")
    # The response to a removal has no required field.
    assert counts(sandbox, change, "customer-1") == (1, int(change is not REMOVE_CUSTOMER))


async def test_response_with_unknown_value_is_accepted(minted, sandbox):  # F20
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("extra_field", method="PATCH", field="status_name", value="Levitating")
    changed = await UPDATE_ITEM.call(minted, "customer-1", basket)
    assert changed.status == "Levitating"
    assert counts(sandbox, UPDATE_ITEM, "customer-1") == (1, 0)


async def test_remove_retry_that_gets_404_succeeds(minted, sandbox):  # F26
    await prepare_basket(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("drop_after_commit", method="DELETE")
    assert await minted.customers.remove("customer-1") is None
    assert [entry.status for entry in sandbox.requests.of("customers.remove")] == [None, 404]


FAULTS_AFTER_EXECUTION = [("drop_after_commit", {}), ("status", {"status": 500, "commit": True})]


# Faults that `test_change_under_every_fault_is_executed_at_most_once` does not cover.
@pytest.mark.parametrize(("kind", "args"), FAULTS_AFTER_EXECUTION, ids=["dropped", "500"])
async def test_delete_item_retry_that_finds_no_line_succeeds(minted, sandbox, kind, args):
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.faults.add(kind, method="DELETE", **args)
    changed = await minted.baskets.delete_item(basket, sku=GOLD)
    assert [item.sku for item in changed.items] == [SILVER]


async def test_delete_item_first_422_raises_validation_failed(minted, sandbox):
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    with pytest.raises(ValidationFailed) as caught:
        await minted.baskets.delete_item(basket, sku="MNTBAE0002")
    assert not caught.value.after_unknown
    assert len(sandbox.requests) == 1


# Additions that cannot be told apart from existing data.


@pytest.mark.parametrize("identify", [lambda b: b.customer.external_id, lambda b: b.key], ids=["customer", "key"])
async def test_add_item_without_basket_raises_after_lost_response(minted, sandbox, identify):
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.requests.clear()
    sandbox.faults.add("drop_after_commit", method="POST")
    with pytest.raises(TransportError) as caught:
        await minted.baskets.add_item(identify(basket), sku=GOLD)
    assert not caught.value.safe_to_retry
    assert stored_items(sandbox, "customer-1") == [*BEFORE, (GOLD, 1)]
    assert len(sandbox.requests) == 1


async def test_add_item_to_outdated_basket_raises_after_lost_response(minted, sandbox):
    basket = await prepare_basket(minted, sandbox, "customer-1")
    await minted.baskets.add_item(basket, sku=GOLD)
    sandbox.faults.add("drop_before_read", method="POST")
    with pytest.raises(TransportError):
        await minted.baskets.add_item(basket, sku=GOLD, qty=2)
    assert stored_items(sandbox, "customer-1") == [*BEFORE, (GOLD, 1)]


async def test_create_taken_id_with_other_name_raises(minted, sandbox):
    await minted.customers.create("customer-1", firstname="Somebody")
    sandbox.faults.add("drop_before_read", method="POST")
    with pytest.raises(TransportError):
        await minted.customers.create("customer-1", firstname="Grace")
    assert stored_person(sandbox, "customer-1")["firstname"] == "Somebody"


async def test_create_taken_id_after_502_succeeds_if_all_fields_match(minted, sandbox):
    await minted.customers.create("customer-1", firstname="Grace", lastname="Hopper")
    for details, succeeds in (
        ({"firstname": "Grace"}, True),
        ({"firstname": "Grace", "email": "g@mail.example"}, False),
    ):
        sandbox.faults.add("status", method="POST", status=502)
        if succeeds:  # as documented: the existing customer cannot be told apart from a new one
            assert (await minted.customers.create("customer-1", **details)).lastname == "Hopper"
        else:
            with pytest.raises(ServerError):
                await minted.customers.create("customer-1", **details)


async def test_create_read_back_ignores_fields_that_get_omits(minted, sandbox):
    sandbox.faults.add("drop_after_commit", method="POST")
    customer = await minted.customers.create("customer-1", firstname="Grace", account_type="company")
    assert customer.firstname == "Grace"


async def test_update_item_of_missing_basket_raises_conflict(minted, sandbox):
    await minted.customers.create("customer-1")
    sandbox.faults.add("status", method="PATCH", status=409)
    with pytest.raises(Conflict):
        await minted.baskets.update_item(BasketKey("customer-1", "T" * 32), sku=GOLD, qty=1)


# Cancellation: F14.


@pytest.mark.parametrize("change", [UPDATE_ITEM, ADD_ITEM, CREATE_CUSTOMER], ids=lambda change: change.name)
async def test_cancelled_change_sends_no_further_request(sandbox, change):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        basket = await prepare_basket(minted, sandbox, "customer-1")
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
        assert change.executed(sandbox, "customer-1")


@pytest.mark.parametrize("change", NON_IDEMPOTENT, ids=lambda change: change.name)
async def test_cancelled_addition_has_a_note_about_its_outcome(sandbox, change):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        basket = await prepare_basket(minted, sandbox, "customer-1")
        fault = sandbox.faults.add("hang")
        task = asyncio.create_task(change.call(minted, "customer-1", basket))
        while not fault.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert any("may have" in note for note in caught.value.__notes__)


# Faults that the sandbox does not have, on plain sockets.

CHANGED = {"external_id": "customer-1", "lastname": "Changed"}
BIG = "x" * 12_000_000
"""Larger than every socket buffer, so that writing it is interrupted."""


async def test_connection_dropped_during_body_is_retried_or_read_back(connect):  # F12
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
    async with RawServer(script) as server:
        options = Options(clock=ManualClock(auto_advance=True), max_body=2 * len(BIG))
        minted = await connect(server.url, options=options)
        customer = await minted.customers.update("customer-1", lastname="Changed", email=BIG)
        assert (heads, customer.lastname) == (["PATCH", "PATCH", "GET"], "Changed")
        heads.clear()
        customer = await minted.customers.create("customer-1", lastname="Changed", email=BIG)
        assert (heads, customer.lastname) == (["POST", "GET"], "Changed")


@pytest.mark.parametrize(
    "send_endless",
    [
        lambda connection: connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50),
        lambda connection: connection.send(b"HTTP/1.1 200 OK\r\nX: "),
        lambda connection: connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    ],
    ids=["endless 1xx", "endless head", "endless body"],
)
async def test_endless_response_is_read_back(connect, send_endless):  # F35
    async def script(connection: Connection) -> None:
        while True:
            first, _, _ = await connection.request()
            if first.startswith("GET"):
                connection.envelope(CHANGED)
            else:
                send_endless(connection)

    async with RawServer(script) as server:
        minted = await connect(server.url, options=without_waits(), timeouts=Timeouts(read=0.3))
        assert (await minted.customers.update("customer-1", lastname="Changed")).lastname == "Changed"
        assert (await minted.customers.create("customer-1", lastname="Changed")).lastname == "Changed"
    assert [first.split()[0] for first, _, _ in server.requests] == ["PATCH", "GET", "POST", "GET"]


async def test_second_response_to_one_request_is_discarded(minted, sandbox):  # F36
    basket = await prepare_basket(minted, sandbox, "customer-1")
    sandbox.faults.add("two_answers", method="PATCH", times=3)
    for qty in (2, 3, 4):
        changed = await minted.baskets.update_item(basket, sku=GOLD, qty=qty)
        assert changed.items[0].amount == qty
    assert (await minted.rates.current())[0].metal_type == "gold"


async def test_response_before_the_request_is_discarded(connect):  # F36
    may_send = anyio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        connection.envelope(CHANGED)
        if connection.number == 0:
            await connection.writer.drain()
            await may_send.wait()
            connection.envelope({"external_id": "customer-1", "lastname": "Unrequested"})
            await connection.writer.drain()
            was_sent.set()
        await connection.request()
        connection.envelope(CHANGED)

    was_sent = anyio.Event()
    async with RawServer(script) as server:
        minted = await connect(server.url, options=without_waits())
        await minted.customers.update("customer-1", lastname="Changed")
        may_send.set()
        await was_sent.wait()
        for _ in range(10):  # the loop reads the data that has arrived
            await asyncio.sleep(0)
        assert (await minted.customers.update("customer-1", lastname="Changed")).lastname == "Changed"
