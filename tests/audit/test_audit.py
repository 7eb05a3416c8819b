"""`minted_connect.audit`: a clean day has no findings, and each planted discrepancy is found and named."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import ConfigurationError, InvalidInput, NotExecuted, OutcomeUnknown
from minted_connect.audit import AuditReport, Finding, FindingKind, as_json, audit
from minted_connect.audit.period import Period
from minted_connect.errors import APIError, CompletionRejected
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.rows import COLUMNS
from minted_connect.sandbox import ManualClock, Sandbox
from tests.audit.conftest import DAY, WHILE, AuditedShop

pytestmark = pytest.mark.anyio

FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("drop_after_commit", {}),
    ("drop_before_read", {}),
    ("status", {"status": 503, "commit": True}),
    ("status", {"status": 503, "commit": False}),
    ("truncate", {}),
    ("html", {"commit": True}),
    ("refusal", {"status": 409, "commit": "before"}),
    ("refusal", {"status": 403, "commit": "never"}),
    ("status", {"status": 422, "commit": False}),
)


def kinds(report: AuditReport) -> list[FindingKind]:
    return [finding.kind for finding in report.findings]


def only(report: AuditReport) -> Finding:
    """Return the only finding of a report that could read everything."""
    assert report.unread == ()
    [finding] = report.findings
    assert report.exit_code == 3
    return finding


async def run_day(shop: AuditedShop) -> int:
    """Buy through two journals for some hours, under faults, and settle every purchase; return the number of orders."""
    draw = random.Random(54)
    clients = [await shop.client("first"), await shop.client("second")]
    for number in range(40):
        client = clients[number % 2]
        if number % 2:
            kind, arguments = draw.choice(FAULTS)
            shop.sandbox.faults.add(kind, path="*/complete/*", **arguments)  # type: ignore[arg-type]
        try:
            await shop.buy(client, f"customer-{number % 7}", qty=1 + number % 3, reference=f"day/{number}")
        except OutcomeUnknown as unknown:
            with suppress(CompletionRejected, NotExecuted):
                await client.complete.reconcile(unknown, fence=True)
        except (APIError, CompletionRejected):
            pass
        shop.clock.advance(600)
    for client in clients:
        assert await client.complete.pending() == []
    shop.clock.advance(WHILE)
    return len(shop.sandbox.shop.orders_of(shop.sandbox.username))


@pytest.mark.requirement(54)
async def test_day_with_faults_and_reconciliations_is_clean(shop: AuditedShop) -> None:
    orders = await run_day(shop)
    report = await shop.audit()
    assert report.findings == ()
    assert report.unread == ()
    assert report.is_clean
    assert report.exit_code == 0
    assert report.orders == report.matched == orders > 25
    assert report.intents >= 40


@pytest.mark.requirement(54)
async def test_five_planted_discrepancies_are_each_named(shop: AuditedShop) -> None:
    first, second = await shop.client("first"), await shop.client("second")
    by_hand = await shop.client(None)
    bought = [await shop.buy(first, f"customer-{number}", reference=f"plan/{number}") for number in range(6)]
    manual = await shop.buy(by_hand, "customer-7")
    again = await shop.buy(second, "customer-2", reference="plan/2")
    shop.execute("DELETE FROM intents WHERE order_id = ?", bought[0].order_id)
    shop.execute("UPDATE intents SET paid_total = '1.00' WHERE order_id = ?", bought[1].order_id)
    cancelled = bought[3].order_id
    assert cancelled is not None
    shop.sandbox.shop.set_status(cancelled, "Cancelled")
    shop.clock.advance(WHILE)
    report = await shop.audit()
    assert report.exit_code == 3
    found = {(finding.kind, *sorted(finding.order_ids)) for finding in report.findings}
    assert found == {
        (FindingKind.ORDER_WITHOUT_INTENT, manual.order_id),
        (FindingKind.ORDER_WITHOUT_INTENT, bought[0].order_id),
        (FindingKind.TOTAL_DIFFERS, bought[1].order_id),
        (FindingKind.REFERENCE_REPEATED, bought[2].order_id, again.order_id),
        (FindingKind.ORDER_FAILED, bought[3].order_id),
    }
    assert len(report.findings) == 5
    assert report.counts[FindingKind.ORDER_WITHOUT_INTENT] == 2
    for finding in report.findings:
        for hidden in ("customer-", "Brant", "plan/"):
            assert hidden not in finding.text


@pytest.mark.requirement(54)
async def test_order_that_disappeared_is_named(shop: AuditedShop) -> None:
    order_id = (await shop.buy(await shop.client())).order_id
    assert order_id is not None
    shop.sandbox.shop.set_listed(order_id, is_listed=False)
    shop.clock.advance(WHILE)
    finding = only(await shop.audit())
    assert (finding.kind, finding.order_ids) == (FindingKind.INTENT_WITHOUT_ORDER, (order_id,))


@pytest.mark.requirement(54)
@pytest.mark.parametrize("is_listed", [True, False])
async def test_open_intent_is_a_finding(shop: AuditedShop, is_listed: bool) -> None:
    client = await shop.client()
    shop.sandbox.faults.add("drop_after_commit" if is_listed else "drop_before_read", path="*/complete/*")
    with pytest.raises(OutcomeUnknown) as caught:
        await shop.buy(client)
    shop.clock.advance(WHILE)
    finding = only(await shop.audit())
    assert finding.kind is FindingKind.OPEN_INTENT
    assert finding.intent_ids == (caught.value.intent.id,)
    assert len(finding.order_ids) == is_listed
    assert "unknown" in finding.text


@pytest.mark.requirement(54)
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("currency_code = 'USD'", FindingKind.CURRENCY_DIFFERS),
        ("""items = '[["MNTBAE0001", 2]]'""", FindingKind.PIECES_DIFFER),
        ("kind = 'sell'", FindingKind.KIND_DIFFERS),
        ("state = 'not_executed'", FindingKind.OUTCOME_DIFFERS),
        ("state = 'prepared'", FindingKind.OPEN_INTENT),
        ("state = 'a later state'", FindingKind.OPEN_INTENT),
    ],
)
async def test_changed_record_is_named(shop: AuditedShop, change: str, kind: FindingKind) -> None:
    completion = await shop.buy(await shop.client())
    shop.execute(f"UPDATE intents SET {change}")
    finding = only(await shop.audit())
    assert (finding.kind, finding.order_ids) == (kind, (completion.order_id,))


@pytest.mark.requirement(54)
async def test_two_intents_of_one_order_are_named(shop: AuditedShop) -> None:
    completion = await shop.buy(await shop.client())
    columns = ", ".join(COLUMNS[1:])
    shop.execute(f"INSERT INTO intents (id, {columns}) SELECT 'copy', {columns} FROM intents")
    finding = only(await shop.audit())
    assert (finding.kind, finding.order_ids) == (FindingKind.INTENTS_REPEATED, (completion.order_id,))
    assert len(finding.intent_ids) == 2


@pytest.mark.requirement(54)
async def test_second_order_of_one_basket_is_named(clock: ManualClock, tmp_path: Path) -> None:
    async with Sandbox(seed=1, clock=clock, single_shot=False) as server, AsyncExitStack() as stack:
        shop = AuditedShop(server, clock, tmp_path, stack)
        client = await shop.client()
        completion = await shop.buy(client)
        [customer] = server.shop.customers
        again = server.shop.complete("buy", customer, completion.require_order().token)
        finding = only(await shop.audit())
        assert finding.kind is FindingKind.ORDERS_REPEATED
        assert set(finding.order_ids) == {completion.order_id, again.id}


async def test_rejected_intent_of_a_failed_order_is_clean(shop: AuditedShop) -> None:
    completion = await shop.buy(await shop.client())
    assert completion.order_id is not None
    shop.sandbox.shop.set_status(completion.order_id, "Refunded")
    shop.execute("UPDATE intents SET state = 'rejected'")
    assert (await shop.audit()).is_clean


async def test_order_of_an_old_basket_is_found(shop: AuditedShop) -> None:
    client = await shop.client()
    await client.customers.create("customer-1")
    await client.baskets.add_item("customer-1", sku="MNTBAE0001", qty=1)
    shop.clock.advance(timedelta(days=5).total_seconds())
    basket = await client.baskets.get_active("customer-1")
    assert basket is not None
    completion = await client.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.require_order().order_at.date() == DAY
    shop.clock.advance(WHILE)
    report = await shop.audit(DAY + timedelta(days=5))
    assert report.is_clean
    assert (report.intents, report.matched, report.orders) == (1, 1, 0)
    assert (await shop.audit(DAY)).is_clean


async def test_recent_purchase_is_not_missing(shop: AuditedShop) -> None:
    completion = await shop.buy(await shop.client())
    assert completion.order_id is not None
    shop.sandbox.shop.set_listed(completion.order_id, is_listed=False)
    report = await shop.audit()
    assert (report.is_clean, report.recent, report.matched) == (True, 1, 0)
    shop.clock.advance(WHILE)
    assert kinds(await shop.audit()) == [FindingKind.INTENT_WITHOUT_ORDER]


async def test_other_days_and_customers_are_left_out(shop: AuditedShop) -> None:
    by_hand = await shop.client(None)
    await shop.buy(await shop.client(), "customer-1")
    await shop.buy(by_hand, "customer-2")
    shop.clock.advance(timedelta(days=1).total_seconds())
    later = await shop.buy(by_hand, "customer-1")
    shop.clock.advance(WHILE)
    assert len((await shop.audit()).findings) == 1
    assert (await shop.audit(customer_id="customer-1")).is_clean
    assert only(await shop.audit(DAY + timedelta(days=1))).order_ids == (later.order_id,)
    assert len((await shop.audit(DAY, DAY + timedelta(days=1))).findings) == 2
    report = await shop.audit(DAY - timedelta(days=1))
    assert (report.is_clean, report.orders, report.intents) == (True, 0, 0)


async def test_same_journal_twice_counts_once(shop: AuditedShop) -> None:
    await shop.buy(await shop.client(), reference="plan/1")
    shop.clock.advance(WHILE)
    report = await shop.audit(journals=[*shop.journals, *shop.journals])
    assert (report.is_clean, report.intents) == (True, 1)


async def test_intents_of_other_accounts_are_counted(shop: AuditedShop) -> None:
    completion = await shop.buy(await shop.client())
    settings = shop.settings
    settings["options"] = attrs.evolve(settings["options"], journal_account="another")
    shop.execute("UPDATE intents SET account = 'of another user'")
    report = await audit(settings, start=DAY, journals=shop.journals)
    finding = only(report)
    assert report.other_accounts == 1
    assert (finding.kind, finding.order_ids) == (FindingKind.ORDER_WITHOUT_INTENT, (completion.order_id,))
    assert "another account" in finding.text
    assert len(finding.intent_ids) == 1


@pytest.mark.requirement(54)
@pytest.mark.parametrize("content", [None, b"", b"no journal" * 100])
async def test_unreadable_journal_is_never_clean(shop: AuditedShop, content: bytes | None) -> None:
    await shop.buy(await shop.client())
    missing = shop.folder / "missing.db"
    if content is not None:
        missing.write_bytes(content)
    report = await shop.audit(journals=[*shop.journals, missing])
    assert report.findings == ()
    assert [unread.source for unread in report.unread] == [str(missing)]
    assert (report.exit_code, report.is_clean, report.is_complete) == (4, False, False)
    assert missing.exists() == (content is not None)


@pytest.mark.requirement(54)
async def test_unreadable_record_is_never_clean(shop: AuditedShop) -> None:
    await shop.buy(await shop.client())
    shop.execute("UPDATE intents SET items = '?'")
    report = await shop.audit()
    assert kinds(report) == [FindingKind.ORDER_WITHOUT_INTENT]
    assert report.exit_code == 4
    assert "record" in report.unread[0].problem


@pytest.mark.requirement(54)
async def test_unreadable_orders_are_never_clean(shop: AuditedShop) -> None:
    await shop.buy(await shop.client())
    shop.clock.advance(WHILE)
    shop.sandbox.faults.add("status", path="*/orders", status=403, times=None)
    report = await shop.audit()
    assert report.findings == ()
    assert {unread.source for unread in report.unread} == {"orders"}
    assert report.exit_code == 4


@pytest.mark.requirement(54)
@pytest.mark.parametrize("field", ["order_at", "increment_id"])
async def test_unreadable_order_is_never_clean(shop: AuditedShop, field: str) -> None:
    await shop.buy(await shop.client())
    shop.clock.advance(WHILE)
    shop.sandbox.faults.add("odd_row", path="*/orders", times=None, field=field, value=[{}])  # type: ignore[arg-type]
    report = await shop.audit()
    assert report.findings == ()
    assert report.exit_code == 4
    assert "cannot be read" in report.unread[0].problem


@pytest.mark.requirement(54)
async def test_orders_that_may_be_missing_are_never_clean(shop: AuditedShop) -> None:
    await shop.buy(await shop.client())
    shop.sandbox.faults.add("extra_field", path="*/orders", times=None, field="total", value=40)
    report = await shop.audit()
    assert (report.findings, report.exit_code) == ((), 4)
    assert "some may be missing" in report.unread[0].problem


async def test_orders_with_numbers_of_their_own_are_matched(clock: ManualClock, tmp_path: Path) -> None:
    async with Sandbox(seed=1, clock=clock, keep_ids=False) as server, AsyncExitStack() as stack:
        shop = AuditedShop(server, clock, tmp_path, stack)
        client = await shop.client()
        for number in range(35):
            await shop.buy(client, f"customer-{number % 3}")
        shop.clock.advance(WHILE)
        report = await shop.audit()
        assert (report.is_clean, report.matched) == (True, 35)


async def test_journal_objects_are_accepted(shop: AuditedShop) -> None:
    journal = MemoryJournal()
    report = await shop.audit(journals=[journal])
    assert (report.is_clean, report.journals) == (True, ("MemoryJournal",))

    class Other(MemoryJournal):
        find_intents = None  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match="Other lacks find_intents"):
        await shop.audit(journals=[Other()])


async def test_audit_without_journals_is_refused(shop: AuditedShop) -> None:
    with pytest.raises(ConfigurationError, match="journal"):
        await shop.audit(journals=None)
    with pytest.raises(InvalidInput, match="end"):
        await shop.audit(DAY, DAY - timedelta(days=1))


def test_period_of_all_days_has_no_day_before_or_after() -> None:
    period = Period(date.min, date.max)
    assert (period.first_read, period.last_read) == (date.min, date.max)
    period = Period(DAY, DAY)
    assert (period.first_read, period.last_read) == (DAY - timedelta(days=1), DAY + timedelta(days=1))


async def test_report_hides_the_customer_in_its_repr(shop: AuditedShop) -> None:
    await shop.buy(await shop.client(None), "customer-with-a-name")
    await shop.client()
    report = await shop.audit(journals=[MemoryJournal()])
    assert "customer-with-a-name" not in repr(report)
    assert as_json(report)["findings"][0]["customer_id"] == "customer-with-a-name"


async def test_audit_sends_reads_only(shop: AuditedShop) -> None:
    await shop.buy(await shop.client())
    before = len(shop.sandbox.requests)
    content = shop.journals[0].read_bytes()
    await shop.audit()
    assert {request.method for request in [*shop.sandbox.requests][before:]} == {"GET"}
    assert shop.journals[0].read_bytes() == content
