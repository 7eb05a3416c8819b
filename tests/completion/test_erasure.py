"""`complete.erase_customer`: names become hashes, and everything that prevents a second purchase still matches."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import CompletionPolicy, LimitExceeded, Options, SpendingLimit
from minted_connect.audit import FindingKind, audit
from minted_connect.errors import (
    AlreadyInFlight,
    ConfigurationError,
    InvalidInput,
    JournalError,
    OutcomeUnknown,
)
from minted_connect.journal import open_journal
from minted_connect.journal.erasure import ErasableJournal, as_erasable, hash_name
from minted_connect.journal.listing import IntentFilter
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, JournalAccount, ReferenceKey
from minted_connect.journal.spending import SpendingCheck
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState, OrderProgress, OrderStatus
from tests.completion.fakes import SHIPPING
from tests.completion.shops import CUSTOMER, REFERENCE, Shop
from tests.completion.test_claim_journals import Journals, claim_of, intent_with, journals
from tests.completion.test_import import ITEMS
from tests.completion.test_intent_lists import one
from tests.completion.test_intents import collect
from tests.support.operations import GOLD
from tests.support.postgres import Database

__all__ = ["journals"]

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 12, 1, tzinfo=UTC)
MINE = JournalAccount("server", "mine")
TRACKED = OrderProgress(OrderStatus.PENDING, False, "TRACK-7", date(2026, 12, 24), Decimal("5.00"), "AED")
PIECES = '"kind": "buy", "pieces": {"GOLD": 1}, "currency": "AED"'


def key_of(reference: str) -> ReferenceKey:
    return ReferenceKey(reference, MINE, MINE.account)


def terms_of(customer: str, address: str | None = None) -> str:
    quoted = "null" if address is None else f'"{address}"'
    return f'{{{PIECES}, "customer": "{customer}", "address": {quoted}}}'


async def erase(journal: Any, customer: str = "ada") -> int:
    count: int = await journal.erase_customer(customer, NOW, account="mine", unnamed_account="mine")
    return count


async def confirm(journal: Any, name: str, customer: str = "ada", reference: str | None = None, **changes: Any) -> None:
    terms = terms_of(customer, "0" * 64) if reference is not None else None
    key = None if reference is None else key_of(reference)
    intent = one(name, external_customer_id=customer, reference=reference, terms=terms, **changes)
    await journal.prepare(intent, key=key)
    await journal.settle(name, IntentState.CONFIRMED, order_id=7, progress=TRACKED)


@pytest.fixture
def journal(journals: Journals) -> Any:
    return journals.journal


# --- journals ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_erased_records_have_hashes(journal: Any) -> None:
    await confirm(journal, "first", reference="plan/Ada/1")
    await confirm(journal, "second", reference="order-7")
    await confirm(journal, "third")
    await confirm(journal, "other", "bob", "plan/bob")
    assert await erase(journal) == 3
    hashed = journal.erased_name("ada")
    assert hashed.startswith("erased:")
    first, second, third, other = (await journal.find_intents(IntentFilter(), limit=9)).items
    assert {one.external_customer_id for one in (first, second, third)} == {hashed}
    assert {one.erased_at for one in (first, second, third)} == {NOW}
    assert (first.reference, second.reference) == (journal.erased_name("plan/Ada/1"), "order-7")
    for intent in (first, second):
        # The digits of a hash may spell the name.
        assert "ada" not in re.sub(r"[0-9a-f]{32,}", "", repr(attrs.asdict(intent)).casefold())
        assert "0" * 64 not in intent.terms
    assert third.progress == OrderProgress(OrderStatus.PENDING, False)
    assert (third.progress.cargo_tracking_number, third.progress.estimated_arrival_date) == (None, None)
    assert third.progress.paid_total == Decimal("5.00")
    assert (other.external_customer_id, other.erased_at, other.progress) == ("bob", None, TRACKED)
    assert (first.cart_token, first.order_id, first.state) == ("first", 7, IntentState.CONFIRMED)
    assert await journal.awaiting_completion() == [other]
    assert await erase(journal) == 0
    assert await erase(journal, "unknown") == 0


@pytest.mark.requirement(47)
async def test_lookups_match_erased_names(journal: Any) -> None:
    await confirm(journal, "first", reference="plan/ada/1")
    await erase(journal)
    assert (await journal.find_active("ada", "first", account="mine")).id == "first"
    assert [found.id for found in await journal.find_by_reference(key_of("plan/ada/1"))] == ["first"]
    with pytest.raises(AlreadyInFlight, match="this basket"):
        await journal.prepare(one("again", external_customer_id="ada", cart_token="first"))
    again = one("again", external_customer_id="ada", reference="plan/ada/1", terms=terms_of("ada"))
    with pytest.raises(AlreadyInFlight, match="this reference"):
        await journal.prepare(again, key=key_of("plan/ada/1"), known=())
    with pytest.raises(AlreadyInFlight, match="this reference"):
        await journal.claim(claim_of(key=key_of("plan/ada/1"), external_customer_id="ada"), known=())
    for filters in (IntentFilter(external_customer_id="ada"), IntentFilter(reference="plan/ada/1")):
        assert [found.id for found in await journal.find_intents(filters, limit=9)] == ["first"]
    stranger = ReferenceKey("plan/ada/1", JournalAccount("server", "other"), "other")
    assert await journal.find_other_references(stranger, same=True) == ["first"]


async def test_progress_of_erased_orders_is_not_stored(journal: Any) -> None:
    await confirm(journal, "first")
    await journal.prepare(one("failed", external_customer_id="ada"))
    await journal.settle("failed", IntentState.REJECTED)
    await erase(journal)
    await journal.save_progress("ada", "first", TRACKED, account="mine")
    await journal.settle("failed", IntentState.CONFIRMED, order_id=8, progress=TRACKED)
    found = [await journal.get(name) for name in ("first", "failed")]
    assert [intent.state for intent in found] == [IntentState.CONFIRMED] * 2
    assert "TRACK-7" not in repr([attrs.asdict(intent) for intent in found])
    assert await journal.awaiting_completion() == []


@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN])
async def test_customer_with_an_open_intent_is_not_erased(journal: Any, state: IntentState) -> None:
    await confirm(journal, "first")
    await journal.prepare(one("open", external_customer_id="ada"))
    if state != IntentState.PREPARED:
        await journal.settle("open", state)
    with pytest.raises(AlreadyInFlight, match="intent open of this customer is open") as caught:
        await erase(journal)
    assert caught.value.intent_id == "open"
    assert (await journal.get("first")).external_customer_id == "ada"
    await journal.settle("open", IntentState.NOT_SENT)
    assert await erase(journal) == 2


async def test_records_of_other_accounts_stay(journal: Any) -> None:
    await journal.prepare(one("open", external_customer_id="ada", account="other"))
    await confirm(journal, "none", account=None, server=None)
    assert await erase(journal) == 1
    assert (await journal.get("open")).external_customer_id == "ada"


@pytest.mark.requirement(47)
async def test_claims_are_erased_when_they_have_ended(journals: Journals) -> None:
    journal: Any = journals.journal
    key = key_of("plan/ada/2")
    made = claim_of(key=key, external_customer_id="ada", terms=terms_of("ada"), grace=60.0)
    claim = await journal.claim(made, known=())
    with pytest.raises(AlreadyInFlight, match="another call is completing items for this customer"):
        await erase(journal)
    journals.age(121.0)
    with pytest.raises(AlreadyInFlight, match="may still be executed"):
        await erase(journal)
    journals.age(60.0)
    assert await erase(journal) == 1
    found = await journal.find_claim(key)
    assert (found.key.reference, found.cart_token, found.saw_basket) == ("plan/ada/2", "basket-1", True)
    assert found.external_customer_id == journal.erased_name("ada")
    # The next call takes it over, as if nothing had been erased.
    taken = await journal.claim(attrs.evolve(claim, owner="second", cart_token="basket-2", saw_basket=False), known=())
    assert (taken.generation, taken.cart_token, taken.saw_basket) == (2, "basket-1", True)
    await journal.release_claim(taken, grace=0)
    assert await erase(journal) == 1
    third = await journal.claim(attrs.evolve(claim, owner="third"), known=())
    assert third.generation == 3
    with pytest.raises(AlreadyInFlight):
        await journal.claim(claim_of(key=key_of("x"), external_customer_id="ada"), known=())
    await journal.prepare(intent_with(third, terms=third.terms), key=key, claim=third, frees_customer=True)
    await journal.settle("intent", IntentState.CONFIRMED)
    assert await erase(journal) == 2


@pytest.mark.requirement(47)
async def test_limits_count_erased_purchases(journal_location: str) -> None:
    journal: Any = open_journal(journal_location)
    limit = SpendingLimit(currency="AED", per_customer_per_day=Decimal(250))
    check = SpendingCheck(limit, "mine", "mine")
    values: dict[str, Any] = {"external_customer_id": "ada", "paid_total": Decimal(150)}
    await journal.prepare(one("first", **values), spending=check)
    await journal.settle("first", IntentState.CONFIRMED)
    await erase(journal)
    with pytest.raises(LimitExceeded, match="this customer has spent 150 of 250"):
        await journal.prepare(one("second", **values), spending=check)
    await journal.prepare(one("second", **{**values, "external_customer_id": "bob"}), spending=check)
    await journal.aclose()


def names_in(folder: Path, *texts: str) -> list[str]:
    found = [(file, text) for file in folder.iterdir() for text in texts if text.encode() in file.read_bytes()]
    return [f"{text} in {file.name}" for file, text in found]


@pytest.mark.requirement(47)
async def test_erased_names_leave_no_bytes_in_the_file(tmp_path: Path) -> None:
    journal: Any = SqliteJournal(tmp_path / "j.db")
    ada, bob = "canary-ada-" + "x" * 40, "canary-bob"
    for number in range(60):
        await confirm(journal, f"a{number}", ada, f"plan/{ada}/{number}")
        await confirm(journal, f"b{number}", bob, f"plan/{bob}/{number}")
    held = await journal.claim(
        claim_of(key=key_of(f"c/{ada}"), external_customer_id=ada, terms=terms_of(ada)), known=()
    )
    await journal.release_claim(held, grace=0)
    # Moves rows to other pages, which leaves their earlier bytes behind.
    with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
        database.execute("UPDATE intents SET corrections = hex(randomblob(300))")
    with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
        database.execute("UPDATE intents SET corrections = NULL")
    reader = sqlite3.connect(tmp_path / "j.db")
    reader.execute("SELECT count(*) FROM intents").fetchall()
    assert names_in(tmp_path, ada)
    assert await erase(journal, ada) == 61
    assert names_in(tmp_path, ada) == []
    assert names_in(tmp_path, bob)
    reader.close()
    assert [found.id for found in await journal.find_by_reference(key_of(f"plan/{ada}/7"))] == ["a7"]
    ids = [intent.id for intent in await journal.find_intents(IntentFilter(), limit=200)]
    assert ids == [f"{letter}{number}" for number in range(60) for letter in "ab"]
    await journal.aclose()


async def test_long_read_transaction_keeps_old_bytes_and_is_reported(tmp_path: Path) -> None:
    journal: Any = SqliteJournal(tmp_path / "j.db", patience=0.5)
    await confirm(journal, "first", "canary-ada")
    with closing(sqlite3.connect(tmp_path / "j.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM intents").fetchall()
        with pytest.raises(JournalError, match="still has earlier content"):
            await erase(journal, "canary-ada")
        reader.execute("ROLLBACK")
    assert (await journal.get("first")).erased_at == NOW
    assert await erase(journal, "canary-ada") == 0
    assert names_in(tmp_path, "canary-ada") == []
    await journal.aclose()


async def test_backup_has_the_key_of_its_journal(tmp_path: Path) -> None:
    journal: Any = SqliteJournal(tmp_path / "j.db")
    await confirm(journal, "first", reference="plan/ada")
    await erase(journal)
    await journal.backup(tmp_path / "b.db")
    copy: Any = SqliteJournal(tmp_path / "b.db")
    assert [found.id for found in await copy.find_by_reference(key_of("plan/ada"))] == ["first"]
    other: Any = SqliteJournal(tmp_path / "other.db")
    await confirm(other, "first")
    assert len({journal.erased_name("ada"), other.erased_name("ada"), hash_name("", "ada")}) == 3
    assert copy.erased_name("ada") == journal.erased_name("ada")


async def test_key_stays_and_is_shared(journal_location: str) -> None:
    first, second = [open_journal(journal_location) for _ in range(2)]
    assert isinstance(first, ErasableJournal)
    assert isinstance(second, ErasableJournal)
    assert first.erased_name("ada") is None
    await first.prepare(one("first"))
    assert await second.get("first") is not None
    hashed = first.erased_name("ada")
    assert hashed is not None
    assert hashed == second.erased_name("ada")


async def test_unreadable_record_is_not_erased(journal_location: str, request: pytest.FixtureRequest) -> None:
    journal: Any = open_journal(journal_location)
    await confirm(journal, "first", reference="plan/ada")
    if "://" in journal_location:
        database: Database = request.getfixturevalue("database")
        database.execute("UPDATE minted_connect_intents SET terms = 'x'")
    else:
        with closing(sqlite3.connect(journal_location)) as file, file:
            file.execute("UPDATE intents SET terms = 'x'")
    with pytest.raises(JournalError, match=r"cannot be read: intent first\. The customer was not erased"):
        await erase(journal)


def test_journal_that_cannot_erase_is_named() -> None:
    class Plain(MemoryJournal):
        erase_customer = None  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match="Plain lacks erase_customer of ErasableJournal"):
        as_erasable("erase_customer", Plain())


# --- both clients --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_reference_of_an_erased_customer_is_replayed(shop: Shop) -> None:
    client = await shop.client()
    bought = await shop.buy(client)
    items = {**ITEMS, "items": {GOLD: 2}}
    with_items = await client.complete.buy_items(CUSTOMER, reference=f"items/{CUSTOMER}", **items)
    assert CUSTOMER in REFERENCE
    assert await client.complete.erase_customer(CUSTOMER) == 3
    for each in (client, await shop.client()):
        sent = shop.sent()
        again = await shop.buy(each)
        assert (again.replayed, again.order_id, again.order is not None) == (True, bought.order_id, True)
        again = await each.complete.buy_items(CUSTOMER, reference=f"items/{CUSTOMER}", **items)
        assert (again.replayed, again.order_id) == (True, with_items.order_id)
        with pytest.raises(InvalidInput, match=r"other terms \(intent .*\): pieces differ"):
            await shop.buy(each, qty=5)
        assert shop.sent() == sent
        found = await collect(each.complete.intents(customer_id=CUSTOMER))
        assert [intent.order_id for intent in found] == [bought.order_id, with_items.order_id]
        assert CUSTOMER not in repr([attrs.asdict(intent) for intent in found])
        assert (await each.complete.intent(reference=REFERENCE)).id == found[0].id
        assert await each.complete.unfinished() == []
    assert not (await shop.buy(client, "another")).replayed


@pytest.mark.requirement(47)
async def test_basket_of_an_erased_customer_is_refused(shop: Shop) -> None:
    client = await shop.client()
    basket = await shop.fill(client)
    await client.complete.buy(basket, expected_total=basket.paid_total)
    assert await client.complete.erase_customer(CUSTOMER) == 1
    sent = shop.sent()
    with pytest.raises(AlreadyInFlight, match="this basket was completed already"):
        await client.complete.buy(basket, expected_total=basket.paid_total)
    assert shop.sent() == sent


@pytest.mark.requirement(47)
async def test_failed_attempt_of_an_erased_customer_is_searched(shop: Shop) -> None:
    """An order that shows only after the customer was erased is still found by the next call."""
    shop.sandbox.faults.add("refusal", path="*/complete/*", status=409, commit="after", seconds=20.0)
    policy = CompletionPolicy(orders_lag=1.0, latest_landing=2.0)
    client = await shop.client(policy)
    with pytest.raises(Exception, match="409"):
        await shop.buy(client)
    assert await client.complete.erase_customer(CUSTOMER) == 1
    shop.advance()
    again = await shop.buy(await shop.client(policy))
    assert again.replayed
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_delivery_of_an_erased_customer_is_replayed(shop: Shop) -> None:
    client = await shop.client()
    await shop.buy(client, "stock", qty=3)

    async def deliver(**changes: Any) -> Any:
        basket = await shop.fill(client, type="delivery")
        shipping = attrs.evolve(SHIPPING, **changes)
        return await client.complete.delivery(
            basket, expected_total=basket.paid_total, reference="ship", shipping=shipping
        )

    made = await deliver()
    await client.complete.erase_customer(CUSTOMER)
    again = await deliver()
    assert (again.replayed, again.order_id) == (True, made.order_id)
    with pytest.raises(InvalidInput, match=r"address differ"):
        await deliver(city="Ankara")


async def test_customer_with_an_unknown_outcome_is_not_erased(shop: Shop) -> None:
    shop.sandbox.faults.add("drop_after_commit", path="*/complete/*")
    client = await shop.client(CompletionPolicy(orders_lag=1.0))
    with pytest.raises(OutcomeUnknown):
        await shop.buy(client)
    [intent] = await client.complete.pending()
    with pytest.raises(AlreadyInFlight, match=r"is open: find it in complete\.pending"):
        await client.complete.erase_customer(CUSTOMER)
    await client.complete.reconcile(intent)
    assert await client.complete.erase_customer(CUSTOMER) == 1


async def test_erasure_checks_its_argument_and_read_only(shop: Shop) -> None:
    client = await shop.client()
    with pytest.raises(InvalidInput):
        await client.complete.erase_customer("")
    reader = await shop.client(options=Options(clock=shop.clock, read_only=True))
    with pytest.raises(ConfigurationError, match="read_only"):
        await reader.complete.erase_customer(CUSTOMER)


@pytest.mark.requirement(54)
async def test_audit_pairs_erased_intents_with_their_orders(
    connect: Any, sandbox: Any, clock: Any, journal_location: str
) -> None:
    shop = Shop(connect, sandbox, clock, journal_location)
    client = await shop.client()
    await shop.buy(client, "a")
    gone = await shop.buy(client, "b")
    await client.complete.erase_customer(CUSTOMER)
    settings = {"base_url": sandbox.url, "username": sandbox.username, "password": sandbox.password}
    settings["options"] = Options(clock=clock)
    shop.advance(300.0)
    day, sent = clock.wall().date(), len(sandbox.requests)
    report = await audit(settings, start=day - timedelta(days=1), end=day, journals=[shop.location])
    assert (report.findings, report.unread, report.matched) == ((), (), 2)
    assert all("erased" not in str(request.path) for request in sandbox.requests[sent:])
    sandbox.shop.set_status(gone.order_id, "Cancelled")
    report = await audit(settings, start=day - timedelta(days=1), end=day, journals=[shop.location])
    assert [finding.kind for finding in report.findings] == [FindingKind.ORDER_FAILED]


def test_journals_can_erase(tmp_path: Path) -> None:
    kinds: list[Journal] = [MemoryJournal(), SqliteJournal(tmp_path / "j.db")]
    assert all(isinstance(journal, ErasableJournal) for journal in kinds)
