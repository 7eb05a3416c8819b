"""`minted_connect.audit`: changes of wallets between two snapshots that the orders do not explain."""

from __future__ import annotations

from typing import Any

import pytest

from minted_connect import ConfigurationError
from minted_connect.audit import FindingKind, WalletSnapshot
from minted_connect.sandbox import Sandbox
from tests.audit.conftest import WHILE, AuditedShop
from tests.support.operations import GOLD, SILVER

pytestmark = pytest.mark.anyio


async def snapshot_of(shop: AuditedShop, **settings: Any) -> WalletSnapshot:
    shop.clock.advance(WHILE)
    report = await shop.audit(takes_snapshot=True, **settings)
    assert report.is_clean
    assert report.snapshot is not None
    return WalletSnapshot.loads(report.snapshot.dumps())


@pytest.mark.requirement(54)
async def test_wallet_that_orders_explain_is_clean(shop: AuditedShop) -> None:
    client = await shop.client()
    await shop.buy(client, "customer-1", qty=2)
    await shop.buy(client, "customer-2", qty=3)
    before = await snapshot_of(shop)
    await shop.buy(client, "customer-1", qty=1)
    basket = await client.baskets.add_item("customer-2", sku=GOLD, qty=2, type="sell")
    await client.complete.sell(basket, expected_total=basket.paid_total)
    await shop.buy(client, "customer-3")
    shop.clock.advance(WHILE)
    report = await shop.audit(since=before)
    assert report.is_clean
    assert report.wallets == 2


@pytest.mark.requirement(54)
async def test_wallet_that_changed_without_an_order_is_named(shop: AuditedShop) -> None:
    client = await shop.client()
    for customer in ("customer-1", "customer-2"):
        await shop.buy(client, customer, qty=2)
    before = await snapshot_of(shop)
    completion = await shop.buy(client, "customer-1", qty=1)
    shop.sandbox.shop.give("customer-1", GOLD, -1)
    shop.sandbox.shop.give("customer-2", SILVER, 4)
    shop.clock.advance(WHILE)
    report = await shop.audit(since=before)
    assert report.exit_code == 3
    first, second = sorted(report.findings, key=lambda one: str(one.customer_id))
    assert first.kind is second.kind is FindingKind.WALLET_DIFFERS
    assert (first.customer_id, first.order_ids) == ("customer-1", (completion.order_id,))
    assert f"{GOLD} 2 before, +1 by orders, 2 now" in first.text
    assert (second.customer_id, second.order_ids) == ("customer-2", ())
    assert f"{SILVER} 0 before, +0 by orders, 4 now" in second.text
    assert "customer-" not in first.text + second.text


@pytest.mark.requirement(54)
async def test_cancelled_order_that_stays_in_the_wallet_is_named(shop: AuditedShop) -> None:
    completion = await shop.buy(await shop.client())
    before = await snapshot_of(shop)
    assert completion.order_id is not None
    shop.sandbox.shop.set_status(completion.order_id, "Cancelled")
    report = await shop.audit(since=before)
    assert {finding.kind for finding in report.findings} == {FindingKind.ORDER_FAILED, FindingKind.WALLET_DIFFERS}
    shop.sandbox.shop.give("customer-1", GOLD, -1)
    report = await shop.audit(since=before)
    assert [finding.kind for finding in report.findings] == [FindingKind.ORDER_FAILED]


@pytest.mark.requirement(54)
async def test_wallet_that_cannot_be_read_is_never_clean(shop: AuditedShop) -> None:
    await shop.buy(await shop.client())
    before = await snapshot_of(shop)
    shop.sandbox.faults.add("status", path="*/balance*", status=403, times=None)
    report = await shop.audit(since=before)
    assert (report.findings, report.exit_code, report.wallets) == ((), 4, 0)
    assert [(one.source, one.customer_id) for one in report.unread] == [("wallets", "customer-1")]
    assert "customer-1" not in repr(report.unread)


async def test_wallet_with_a_recent_purchase_counts_as_unread(shop: AuditedShop) -> None:
    client = await shop.client()
    await shop.buy(client)
    before = await snapshot_of(shop)
    await shop.buy(client)
    report = await shop.audit(since=before)
    assert report.exit_code == 4
    assert "may not be listed yet" in report.unread[0].problem


async def test_snapshot_keeps_customers_of_the_earlier_one(shop: AuditedShop) -> None:
    await shop.buy(await shop.client(), "customer-1")
    before = await snapshot_of(shop)
    await shop.buy(await shop.client(), "customer-2")
    after = await snapshot_of(shop, since=before)
    assert sorted(after.wallets) == ["customer-1", "customer-2"]
    assert sorted((await snapshot_of(shop, customer_id="customer-2", since=before)).wallets) == ["customer-2"]
    assert "customer-1" not in repr(after)


async def test_snapshot_of_another_account_is_refused(shop: AuditedShop) -> None:
    await shop.buy(await shop.client())
    before = await snapshot_of(shop)
    other = WalletSnapshot(before.taken_at, "another", before.wallets)
    with pytest.raises(ConfigurationError, match="belongs to another"):
        await shop.audit(since=other)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "minted-connect wallets 1"}', '{"format": "minted-connect wallets 1", "wallets": 1}'],
)
def test_other_documents_are_no_snapshots(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a snapshot of wallets"):
        WalletSnapshot.loads(text)


async def test_failed_list_of_orders_reads_no_wallets(shop: AuditedShop, sandbox: Sandbox) -> None:
    await shop.buy(await shop.client())
    sandbox.faults.add("status", path="*/orders", status=403, times=None)
    report = await shop.audit(takes_snapshot=True)
    assert (report.exit_code, report.snapshot) == (4, None)
