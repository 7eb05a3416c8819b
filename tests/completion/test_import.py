"""`audit.import_orders`: the orders since a backup are taken over, and block references until they are assigned."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import CompletionPolicy, LimitExceeded, Options, SpendingLimit
from minted_connect.audit import ImportReport, KnownReference, import_orders
from minted_connect.audit import importing as module
from minted_connect.errors import ConfigurationError, InvalidInput, JournalError, OutcomeUnknown
from minted_connect.journal import open_journal
from minted_connect.journal.listing import IntentFilter, as_listable
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import JournalAccount, ReferenceKey
from minted_connect.journal.restoring import OrderImport, as_restorable
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Intent, IntentState, OrderProgress, OrderStatus
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import SHIPPING
from tests.completion.processes import ROOT
from tests.completion.shops import CUSTOMER, REFERENCE, Shop
from tests.completion.test_claim_journals import claim_of
from tests.completion.test_intent_lists import one
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio

MINE = JournalAccount("server", "mine")
KEY = ReferenceKey("r-1", MINE, "mine")
DAY = timedelta(days=1)
ITEMS: dict[str, Any] = {"items": {GOLD: 1}, "max_total": Decimal(10**6), "currency": "AED", "replace": True}


class RestoredShop(Shop):
    """A shop whose journal is restored, and clients whose purchases it does not contain."""

    async def lost_client(self, **settings: Any) -> Any:
        """Return a client with the journal that is lost."""
        return await self.client(journal=MemoryJournal(), **settings)

    async def restore(self) -> None:
        journal = open_journal(self.location)
        await as_restorable("test", journal).mark_restored(self.clock.wall())
        await journal.aclose()

    async def import_orders(self, **arguments: Any) -> ImportReport:
        settings = {"base_url": self.sandbox.url, "username": self.sandbox.username, "password": self.sandbox.password}
        options = arguments.pop("options", Options(clock=self.clock))
        return await import_orders({**settings, "options": options}, journal=self.location, **arguments)

    async def stored(self) -> list[Intent]:
        journal = open_journal(self.location)
        page = await as_listable("test", journal).find_intents(IntentFilter(), limit=1000)
        await journal.aclose()
        assert page.unreadable == ()
        return [*page]

    async def mark(self) -> datetime | None:
        journal = open_journal(self.location)
        mark = await as_restorable("test", journal).restored_from()
        await journal.aclose()
        return mark


@pytest.fixture
def shop(connect: Any, sandbox: Sandbox, clock: ManualClock, journal_location: str) -> RestoredShop:
    return RestoredShop(connect, sandbox, clock, journal_location)


# --- the import ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_import_takes_over_the_orders_since_the_backup(shop: RestoredShop) -> None:
    known = await shop.buy(await shop.client(), "known")
    shop.sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown):
        await shop.buy(await shop.client(), "open")
    await shop.restore()
    shop.advance()
    lost = await shop.buy(await shop.lost_client(), "lost", qty=2)
    plain = await shop.fill(await shop.lost_client(), customer_id="customer-2")
    plain = await (await shop.lost_client()).complete.buy(plain, expected_total=plain.paid_total)
    started = shop.clock.wall()
    report = await shop.import_orders()
    assert (report.exit_code, report.is_complete, report.unread) == (0, True, ())
    assert attrs.astuple(report.counts) == (1, 1, 2)
    assert shop.clock.wall() - started >= timedelta(seconds=CompletionPolicy().settle_time)
    assert await shop.mark() is None
    intents = await shop.stored()
    assert [intent.state for intent in intents] == [IntentState.CONFIRMED] * 4
    assert [intent.reference for intent in intents] == ["known", "open", None, None]
    assert [intent.order_id for intent in intents][0::2] == [known.order_id, lost.order_id]
    assert intents[3].order_id == plain.order_id
    imported = intents[2]
    order = lost.require_order()
    assert imported.imported_at is not None
    assert report.unassigned == tuple(intents[2:])
    assert (imported.external_customer_id, imported.kind, imported.items) == (CUSTOMER, "buy", ((GOLD, 2),))
    assert (imported.paid_total, imported.currency_code) == (order.paid_total, "AED")
    assert (imported.cart_token, imported.guid, imported.increment_id) == (order.token, order.guid, order.increment_id)
    assert (imported.created_at, imported.account) == (order.order_at, intents[0].account)
    assert imported.progress is not None
    client, sent = await shop.client(), shop.sent()
    for reference in ("known", "open"):
        assert (await shop.buy(client, reference)).replayed
    assert shop.sent() == sent
    with pytest.raises(ConfigurationError, match="is not marked as restored"):
        await shop.import_orders()
    assert await shop.stored() == intents


@pytest.mark.requirement(47)
async def test_imported_order_blocks_references_with_its_terms(shop: RestoredShop) -> None:
    client = await shop.lost_client()
    await shop.restore()
    lost = await shop.buy(client, REFERENCE)
    await shop.import_orders()
    client, sent = await shop.client(), shop.sent()
    text = rf"^order {lost.order_id} was taken over .* may be the one of this reference.*complete\.assign_reference"
    for call in (shop.buy(client), client.complete.buy_items(CUSTOMER, reference=REFERENCE, **ITEMS)):
        with pytest.raises(JournalError, match=text) as caught:
            await call
        assert caught.value.intent_id is not None
        assert not caught.value.safe_to_retry
        assert CUSTOMER not in str(caught.value)
    assert shop.sent() == sent
    # Other terms are those of another purchase.
    assert not (await shop.buy(client, "two", qty=2)).replayed
    assert not (await shop.buy(client, "other", customer_id="customer-2")).replayed
    basket = await shop.fill(client)
    await client.complete.buy(basket, expected_total=basket.paid_total)
    assert len(shop.sandbox.shop.orders) == 4


@pytest.mark.requirement(47)
async def test_assigned_reference_is_replayed(shop: RestoredShop) -> None:
    await shop.restore()
    lost = await shop.buy(await shop.lost_client())
    [intent] = (await shop.import_orders()).unassigned
    client, sent = await shop.client(), shop.sent()
    assigned = await client.complete.assign_reference(intent.id, REFERENCE)
    assert (assigned.reference, assigned.order_id) == (REFERENCE, lost.order_id)
    assert assigned.assigned_at is not None
    assert await client.complete.assign_reference(intent.id, REFERENCE) == assigned
    for again in (await shop.buy(client), await client.complete.buy_items(CUSTOMER, reference=REFERENCE, **ITEMS)):
        assert (again.replayed, again.order_id) == (True, lost.order_id)
    assert shop.sent() == sent
    with pytest.raises(InvalidInput, match="other terms"):
        await shop.buy(client, qty=3)
    for other in ("another", None):
        with pytest.raises(InvalidInput, match="is assigned to another reference"):
            await client.complete.assign_reference(intent.id, other)
    assert not (await shop.buy(client, "another")).replayed


@pytest.mark.requirement(47)
async def test_order_without_a_reference_blocks_no_more(shop: RestoredShop) -> None:
    await shop.restore()
    lost = await shop.buy(await shop.lost_client())
    [intent] = (await shop.import_orders()).unassigned
    client = await shop.client()
    assert (await client.complete.assign_reference(intent.id, None)).assigned_at is not None
    bought = await shop.buy(client)
    assert (bought.replayed, bought.order_id == lost.order_id) == (False, False)
    with pytest.raises(InvalidInput, match="was completed already"):
        await client.complete.assign_reference(intent.id, REFERENCE)
    assert (await client.complete.assign_reference(intent.id, "late")).reference == "late"


async def test_assignment_of_other_intents_is_refused(shop: RestoredShop) -> None:
    client = await shop.client()
    await shop.buy(client)
    [intent] = await shop.stored()
    with pytest.raises(InvalidInput, match="was not imported"):
        await client.complete.assign_reference(intent.id, None)
    with pytest.raises(InvalidInput, match="is not in this journal"):
        await client.complete.assign_reference("unknown", None)
    memory = await shop.client(journal=MemoryJournal())
    with pytest.raises(ConfigurationError, match="MemoryJournal lacks assign_reference, "):
        await memory.complete.assign_reference("unknown", None)
    reader = await shop.client(options=Options(clock=shop.clock, read_only=True))
    with pytest.raises(ConfigurationError, match="read_only"):
        await reader.complete.assign_reference(intent.id, None)


@pytest.mark.requirement(47)
@pytest.mark.parametrize("kind", ["sell", "delivery"])
async def test_imported_sales_and_deliveries_block_too(shop: RestoredShop, kind: str) -> None:
    client = await shop.lost_client()
    await shop.buy(client, "stock", qty=3)
    shop.advance()
    await shop.restore()
    shop.clock.advance(3 * 86400)
    await shop.restore()
    extra = {"shipping": SHIPPING} if kind == "delivery" else {}
    elsewhere = {"shipping": attrs.evolve(SHIPPING, city="Ankara")} if kind == "delivery" else {}

    async def complete(client: Any, extra: dict[str, Any]) -> Any:
        basket = await shop.fill(client, type=kind)
        call = getattr(client.complete, kind)
        return await call(basket, expected_total=basket.paid_total, reference=REFERENCE, **extra)

    lost = await complete(client, extra)
    report = await shop.import_orders()
    [intent] = [one for one in report.unassigned if one.kind == kind]
    client, sent = await shop.client(), shop.sent()
    for address in (extra, elsewhere):
        with pytest.raises(JournalError, match=f"order {lost.order_id} "):
            await complete(client, address)
    await client.complete.assign_reference(intent.id, REFERENCE)
    for address in (extra, elsewhere):
        again = await complete(client, address)
        assert (again.replayed, again.order_id) == (True, lost.order_id)
    assert shop.sent() == sent


async def test_failed_order_is_imported_as_rejected(shop: RestoredShop) -> None:
    await shop.restore()
    order_id = (await shop.buy(await shop.lost_client())).order_id
    shop.sandbox.shop.set_status(order_id, "Cancelled")
    [intent] = (await shop.import_orders()).unassigned
    assert (intent.state, intent.order_id) == (IntentState.REJECTED, order_id)
    await shop.restore()
    report = await shop.import_orders()
    assert (report.counts.known, report.counts.stored) == (1, 0)
    client = await shop.client()
    with pytest.raises(JournalError, match=f"order {order_id} "):
        await shop.buy(client)


@pytest.mark.requirement(47)
async def test_limits_count_imported_purchases(shop: RestoredShop) -> None:
    await shop.restore()
    total = (await shop.buy(await shop.lost_client())).require_order().paid_total
    limit = SpendingLimit(currency="AED", per_day=total + total / 2)
    client = await shop.client(options=Options(clock=shop.clock, spending=limit))
    await shop.import_orders()
    basket = await shop.fill(client)
    with pytest.raises(LimitExceeded):
        await client.complete.buy(basket, expected_total=basket.paid_total)


@pytest.mark.requirement(47)
@pytest.mark.parametrize("fault", ["page", "row"])
async def test_incomplete_list_leaves_the_mark(shop: RestoredShop, fault: str) -> None:
    await shop.restore()
    client = await shop.lost_client()
    for number in range(3):
        await shop.buy(client, f"r-{number}", qty=1 + number)
    if fault == "page":
        shop.sandbox.faults.add("status", path="*/orders*", status=403, times=None)
    else:
        shop.sandbox.shop.orders[1].increment_id = None  # type: ignore[assignment]
    report = await shop.import_orders()
    assert (report.exit_code, report.is_complete) == (4, False)
    assert report.unread
    assert await shop.stored() == []
    assert await shop.mark() == report.restored_from
    with pytest.raises(JournalError, match="was restored from a backup"):
        await shop.buy(await shop.client(), "r-9", qty=9)


async def test_order_of_an_older_basket_needs_an_earlier_start(shop: RestoredShop) -> None:
    client = await shop.lost_client()
    await shop.fill(client)
    shop.clock.advance(10 * 86400)
    await shop.restore()
    basket = await client.baskets.get_active(CUSTOMER)
    await client.complete.buy(basket, expected_total=basket.paid_total)
    today = shop.clock.wall().date()
    with pytest.raises(InvalidInput, match=r"start: must be .* or earlier"):
        await shop.import_orders(start=today)
    report = await shop.import_orders(start=today - 20 * DAY, wait=0.0)
    assert (report.start, report.end) == (today - 20 * DAY, today + DAY)
    assert report.counts.stored == 1


async def test_known_references_are_assigned(shop: RestoredShop) -> None:
    await shop.restore()
    client = await shop.lost_client()
    orders = {name: (await shop.buy(client, name)).order_id for name in "abc"}
    known = [KnownReference("a", CUSTOMER, orders["a"]), KnownReference("b", "customer-9", orders["b"])]
    known += [KnownReference("a", CUSTOMER, orders["c"]), KnownReference("d", CUSTOMER, 1)]
    report = await shop.import_orders(references=known)
    assert (report.assigned, report.exit_code) == (1, 3)
    assert [text.partition(":")[0] for text in report.problems] == [
        f"order {orders['b']} is not the one of this reference",
        f"order {orders['c']}",
    ]
    assert all(CUSTOMER not in text for text in report.problems)
    assert [intent.order_id for intent in report.unassigned] == [orders["b"], orders["c"]]
    assert (await shop.buy(await shop.client(), "a")).order_id == orders["a"]


@pytest.mark.requirement(47)
async def test_mark_stays_for_other_accounts(shop: RestoredShop) -> None:
    named = Options(clock=shop.clock, journal_account="shop")
    other = await shop.client(options=named)
    await shop.buy(other, "named")
    await shop.restore()
    report = await shop.import_orders()
    assert report.exit_code == 0
    assert await shop.mark() is not None
    with pytest.raises(ConfigurationError, match="were taken over already"):
        await shop.import_orders()
    other = await shop.client(options=attrs.evolve(named, journal_account="third"))
    with pytest.raises(JournalError, match="was restored from a backup"):
        await shop.buy(other, "another", qty=5)
    client = await shop.client(options=named)
    with pytest.raises(JournalError, match="was restored from a backup"):
        await shop.buy(client, "another", qty=5)
    assert (await shop.import_orders(options=named)).exit_code == 0
    assert await shop.mark() is None
    assert not (await shop.buy(client, "another", qty=5)).replayed


# --- interruptions -------------------------------------------------------------------------------------------------


async def test_interrupted_import_is_continued(shop: RestoredShop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.restore()
    client = await shop.lost_client()
    orders = [(await shop.buy(client, f"r-{number}", qty=1 + number)).order_id for number in range(4)]
    monkeypatch.setattr(module, "_PER_TRANSACTION", 1)
    base: Any = type(open_journal(shop.location))
    importing, ending = base.import_orders, base.end_import
    calls = 0

    async def fail(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise JournalError("the disk is full")
        return await importing(*arguments, **named)

    monkeypatch.setattr(base, "import_orders", fail)
    with pytest.raises(JournalError, match="disk is full"):
        await shop.import_orders()
    assert len(await shop.stored()) == 2
    assert await shop.mark() is not None
    monkeypatch.setattr(base, "import_orders", importing)

    async def refuse(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(base, "end_import", refuse)
    report = await shop.import_orders()
    assert (report.exit_code, report.counts.known, report.counts.stored) == (4, 2, 2)
    monkeypatch.setattr(base, "end_import", ending)
    report = await shop.import_orders()
    assert (report.exit_code, report.counts.known, report.counts.stored) == (0, 4, 0)
    assert [intent.order_id for intent in await shop.stored()] == orders
    assert await shop.mark() is None


async def test_concurrent_imports_store_nothing_twice(shop: RestoredShop) -> None:
    await shop.restore()
    client = await shop.lost_client()
    orders = {(await shop.buy(client, f"r-{number}", qty=1 + number)).order_id for number in range(4)}
    results = await asyncio.gather(*(shop.import_orders(wait=0.0) for _ in range(3)), return_exceptions=True)
    assert any(isinstance(result, ImportReport) and result.exit_code == 0 for result in results)
    assert sorted(intent.order_id or 0 for intent in await shop.stored()) == sorted(orders)
    assert await shop.mark() is None


KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, {root!r})
from minted_connect import Options
from minted_connect.audit import import_orders, importing
from minted_connect.journal.sqlite import SqliteJournal
importing._PER_TRANSACTION = 1
genuine, calls = SqliteJournal.import_orders, []
async def kill(*arguments, **named):
    result = await genuine(*arguments, **named)
    calls.append(result)
    if len(calls) == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
SqliteJournal.import_orders = kill
settings = {{"base_url": sys.argv[1], "username": sys.argv[2], "password": sys.argv[3]}}
asyncio.run(import_orders(settings, journal=sys.argv[4], wait=0.0))
"""


async def test_killed_import_is_continued(connect: Any, tmp_path: Path) -> None:
    async with Sandbox(seed=1) as server:
        shop = RestoredShop(connect, server, ManualClock(), str(tmp_path / "j.db"))
        plain = Options()
        client = await connect(server.url, server.username, server.password, journal=MemoryJournal())
        journal = SqliteJournal(tmp_path / "j.db")
        await journal.mark_restored(datetime.now(UTC))
        orders = [(await shop.buy(client, f"r-{number}", qty=1 + number)).order_id for number in range(4)]
        for calls in (1, 3):
            where = [server.url, server.username, server.password, str(tmp_path / "j.db"), str(calls)]
            source = KILLED.format(root=str(ROOT))
            child = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", source, *where], capture_output=True, text=True, timeout=60
            )
            assert child.returncode == -9, child.stderr
            assert len(await shop.stored()) == calls
            assert await shop.mark() is not None
        report = await shop.import_orders(options=plain, wait=0.0)
        assert (report.counts.known, report.counts.stored) == (3, 1)
        assert [intent.order_id for intent in await shop.stored()] == orders
        assert await shop.mark() is None
        await journal.aclose()


# --- journals ------------------------------------------------------------------------------------------------------


def imported(name: str, **changes: Any) -> OrderImport:
    progress = OrderProgress(OrderStatus.COMPLETED, is_final=True)
    values = {"state": IntentState.CONFIRMED, "order_id": 7, "progress": progress, "imported_at": datetime.now(UTC)}
    intent = one(name, **{**values, **changes})
    return OrderImport(intent, lambda other: other.cart_token == intent.cart_token)


@pytest.fixture
async def journal(journal_location: str) -> Any:
    journal = open_journal(journal_location)
    yield journal
    await journal.aclose()


async def take(journal: Any, *orders: OrderImport) -> tuple[int, ...]:
    return attrs.astuple(await journal.import_orders(orders, owner=MINE, unnamed_account="mine"))


async def test_import_settles_each_state(journal: Any) -> None:
    for state in IntentState:
        await journal.prepare(one(str(state)))
        if state != IntentState.PREPARED:
            await journal.settle(str(state), state, order_id=7)
    await journal.prepare(one("other", account="other"))
    names = [str(state) for state in IntentState]
    assert await take(journal, *map(imported, names)) == (1, 5, 0)
    assert {intent.state for intent in [await journal.get(name) for name in names]} == {IntentState.CONFIRMED}
    assert await take(journal, imported("x", cart_token="other")) == (0, 0, 1)
    assert (await journal.get("other")).state == IntentState.PREPARED


async def test_import_of_a_final_order_is_finished(journal: Any) -> None:
    await take(journal, imported("a"))
    assert await journal.awaiting_completion() == []


async def test_import_is_all_or_nothing(journal: Any) -> None:
    await journal.prepare(one("taken"))
    with pytest.raises(JournalError):
        await take(journal, imported("a"), imported("taken", cart_token="b", external_customer_id="b"))
    assert await journal.get("a") is None


async def test_second_order_of_a_confirmed_basket_is_stored(journal: Any) -> None:
    await journal.prepare(one("a"))
    await journal.settle("a", IntentState.CONFIRMED, order_id=7)
    second = imported("b", cart_token="a", order_id=8)
    assert await take(journal, imported("x", cart_token="a"), second) == (1, 0, 1)
    assert await take(journal, second) == (1, 0, 0)


async def test_unassigned_intents_are_not_forgotten(journal: Any) -> None:
    await take(journal, imported("a"), imported("b", cart_token="b"))
    await journal.assign_reference("b", None, None, datetime.now(UTC))
    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert await journal.forget(later, later, account="mine") == 1
    assert (await journal.get("a")).id == "a"


@pytest.mark.requirement(47)
async def test_imported_intent_blocks_claims_of_its_customer_only(journal: Any) -> None:
    order = imported("a", external_customer_id="ada", items=(("X", 1), ("Y", 2), ("X", 1)))
    await take(journal, order)
    terms = '{"kind": "buy", "pieces": {"Y": 2, "X": 2}, "currency": "AED", "customer": "ada"}'
    with pytest.raises(JournalError, match="order 7 was taken over"):
        await journal.claim(claim_of(key=KEY, external_customer_id="ada", terms=terms), known=())
    await journal.claim(claim_of(key=KEY, external_customer_id="bob", terms=terms), known=())


def test_import_needs_a_journal_that_exists(tmp_path: Path) -> None:
    settings = {"username": "a", "password": "b"}
    for location in (tmp_path / "absent.db", None):
        with pytest.raises(ConfigurationError, match="journal: "):
            asyncio.run(import_orders(settings, journal=location))
    assert not (tmp_path / "absent.db").exists()
