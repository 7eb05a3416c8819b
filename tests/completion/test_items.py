"""Calls with items: the basket is claimed, filled and completed once for a reference."""

from __future__ import annotations

import asyncio
import inspect
from decimal import Decimal
from typing import Any

import attrs
import pytest

from minted_connect import AsyncMintedConnect, CompletionPolicy, Options, Timeouts
from minted_connect.errors import (
    AlreadyInFlight,
    APIError,
    BasketIncomplete,
    CompletionRejected,
    ConfigurationError,
    InvalidInput,
    NotSent,
    OutcomeUnknown,
    PriceChanged,
)
from minted_connect.journal import open_journal
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, ReferenceJournal
from minted_connect.models import OrderKind
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.shops import CUSTOMER, REFERENCE, Shop
from tests.support.operations import GOLD, SILVER, Person

BASKET = "*/basket"
COMPLETE = "*/complete/*"
PLENTY = Decimal(1_000_000)
WRITES = {"prepare", "settle", "record_refusal", "claim", "renew_claim", "release_claim", "save_progress"}


class ObservedJournal:
    """A journal that records its writes, and calls a function before and after some of them."""

    def __init__(self, journal: Any, **before: Any) -> None:
        self.journal, self.before, self.writes = journal, before, list[str]()
        self.after: dict[str, Any] = {}
        self.claims: list[Claim] = []
        for name in (name for name in dir(ClaimJournal) if not name.startswith("_")):
            setattr(self, name, self._observed(name, getattr(journal, name)))

    def _observed(self, name: str, method: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if name in WRITES:
                self.writes.append(name)
            for phase, moments in (("before", self.before), ("after", self.after)):
                if phase == "after":
                    result = await method(*args, **kwargs)
                    if name == "claim":
                        self.claims.append(result)
                if (hook := moments.get(name)) is not None and inspect.isawaitable(waiting := hook()):
                    await waiting
            return result

        return call


@pytest.fixture
async def observed(shop: Shop) -> Any:
    """Return the journal of the shop, observed; all clients of the shop use it."""
    journal = shop.location if isinstance(shop.location, MemoryJournal) else open_journal(shop.location)
    shop.location = ObservedJournal(journal)
    yield shop.location
    await journal.aclose()


async def buy_items(client: Any, items: Any = None, **changes: Any) -> Any:
    defaults = {"reference": REFERENCE, "max_total": PLENTY, "currency": "AED"}
    customer = changes.pop("customer_id", CUSTOMER)
    return await client.complete.buy_items(customer, items or {GOLD: 1}, **{**defaults, **changes})


async def customer_of(shop: Shop, **settings: Any) -> Any:
    """Return a client, and create the customer."""
    client = await shop.client(**settings)
    await shop.create_customer(client)
    return client


async def complete_elsewhere(shop: Shop, *, adding: str | None = None) -> tuple[Any, Any]:
    """Fill a basket by a call that ends before the completion; another program, without the journal, completes it.

    Returns the client of the call, and the completion. The other program adds a piece of `adding` first, if given.
    """
    client = await customer_of(shop)
    with pytest.raises(PriceChanged):
        await buy_items(client, max_total=Decimal(1))
    other = await shop.client(journal=MemoryJournal())
    basket = await other.baskets.get_active(CUSTOMER)
    if adding is not None:
        basket = await other.baskets.add_item(basket, sku=adding)
    return client, await other.complete.buy(basket, expected_total=basket.paid_total)


def changes_of(shop: Shop) -> list[str]:
    """Return the methods of the basket changes that the sandbox received."""
    return [one.method for one in shop.sandbox.requests if "/basket" in one.path and one.method != "GET"]


async def test_items_are_bought_for_a_customer_without_a_basket(shop: Shop):
    client = await customer_of(shop)
    completion = await buy_items(client, {GOLD: 2, SILVER: 1})
    assert {item.sku: item.amount for item in completion.order.items} == {GOLD: 2, SILVER: 1}
    assert (completion.replayed, completion.differences) == (False, ())
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_replayed_items_cost_one_request(shop: Shop):
    first = await buy_items(await customer_of(shop))
    restarted = await shop.client()
    await restarted.rates.current()
    before = shop.sandbox.requests.total
    again = await buy_items(restarted)
    assert shop.sandbox.requests.total - before == 1
    assert (again.replayed, again.order_id) == (True, first.order_id)
    assert len(shop.sandbox.shop.orders) == 1


async def test_claim_costs_one_journal_write(shop: Shop, observed: ObservedJournal):
    client = await customer_of(shop)
    basket = await shop.fill(client)
    await client.complete.buy(basket, expected_total=basket.paid_total, reference="another")
    assert observed.writes == ["prepare", "settle"]
    observed.writes.clear()
    await buy_items(client)
    assert observed.writes == ["claim", "prepare", "settle"]


async def test_reference_of_a_basket_is_replayed_for_items(shop: Shop):
    client = await shop.client()
    first = await shop.buy(client)
    assert (await buy_items(client)).order_id == first.order_id
    basket = await shop.fill(client)
    again = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert again.order_id == first.order_id
    with pytest.raises(InvalidInput, match="pieces differ"):
        await buy_items(client, {GOLD: 2})


async def test_open_basket_with_some_of_the_items_is_completed(shop: Shop):
    client = await shop.client()
    basket = await shop.fill(client)
    completion = await buy_items(client, {GOLD: 2, SILVER: 1})
    assert completion.order.token == basket.token
    assert {item.sku: item.amount for item in completion.order.items} == {GOLD: 2, SILVER: 1}


@pytest.mark.parametrize(("items", "shown"), [({SILVER: 1}, f"1 x {GOLD}"), ({GOLD: 1}, f"2 x {GOLD}")])
async def test_other_items_in_the_open_basket_raise_invalid_input(shop: Shop, items: Any, shown: str):
    client = await shop.client()
    basket = await shop.fill(client, 3 if GOLD in items else 1)
    sent = changes_of(shop)
    with pytest.raises(InvalidInput) as caught:
        await buy_items(client, items)
    assert (caught.value.field, shown in str(caught.value)) == ("items", True)
    assert changes_of(shop) == sent
    assert await client.baskets.get_active(CUSTOMER) == basket
    completion = await buy_items(client, items, replace=True)
    assert {item.sku: item.amount for item in completion.order.items} == items


async def test_open_basket_of_another_kind_raises_invalid_input(shop: Shop):
    client = await shop.client()
    await shop.buy(client, "bought", qty=2)
    shop.advance(300)
    await shop.fill(client, type="sell")
    with pytest.raises(InvalidInput, match="of kind sell"):
        await buy_items(client)


async def test_total_above_max_total_raises_price_changed(shop: Shop):
    client = await customer_of(shop)
    with pytest.raises(PriceChanged) as caught:
        await buy_items(client, max_total=Decimal("100.50"))
    total = (await client.baskets.get_active(CUSTOMER)).paid_total
    assert (caught.value.expected, caught.value.actual) == (Decimal("100.50"), total)
    assert shop.sent() == 0
    # The limit is not one of the terms, and the claim has ended with the call.
    assert (await buy_items(client, max_total=total)).order.paid_total == total


async def test_terms_can_be_corrected_until_a_completion_is_prepared(shop: Shop):
    client = await customer_of(shop)
    with pytest.raises(InvalidInput, match="the basket is in AED"):
        await buy_items(client, {GOLD: 3}, currency="USD")
    with pytest.raises(PriceChanged):
        await buy_items(client, {GOLD: 3}, max_total=Decimal(1000))
    completion = await buy_items(client, {GOLD: 1}, max_total=Decimal(1000), replace=True)
    assert {item.sku: item.amount for item in completion.order.items} == {GOLD: 1}
    with pytest.raises(InvalidInput, match="pieces differ"):
        await buy_items(client, {GOLD: 3})


async def test_price_after_the_basket_was_filled_is_checked(shop: Shop, observed: ObservedJournal):
    """The price lock ends after the last change: the read before the completion shows a new price."""
    client = await customer_of(shop)
    totals = []
    for number in range(12):
        limit = (await shop.fill(client)).paid_total
        observed.before["find_active"] = lambda: shop.advance(3600)
        try:
            completion = await buy_items(client, max_total=limit, reference=f"r-{number}", replace=True)
        except PriceChanged as changed:
            totals.append(changed.actual)
            assert changed.actual > limit
        else:
            assert completion.order.paid_total <= limit
        observed.before.clear()
    assert shop.sent() == 12 - len(totals)
    assert 0 < len(totals) < 12


async def test_items_are_sold_at_min_total_or_above(shop: Shop):
    client = await shop.client()
    await shop.buy(client, "bought", qty=2)
    shop.advance(300)
    sell = {"reference": REFERENCE, "currency": "AED"}
    with pytest.raises(PriceChanged, match="less than min_total") as caught:
        await client.complete.sell_items(CUSTOMER, {GOLD: 1}, min_total=PLENTY, **sell)
    assert caught.value.expected == PLENTY
    sold = await client.complete.sell_items(CUSTOMER, {GOLD: 1}, min_total=caught.value.actual, **sell)
    assert sold.order.kind == OrderKind.SELL
    assert (await client.complete.sell_items(CUSTOMER, {GOLD: 1}, min_total=PLENTY, **sell)).order_id == sold.order_id


async def test_items_are_delivered_to_one_address(shop: Shop):
    client = await shop.client()
    await shop.buy(client, "bought", qty=2)
    shop.advance(300)
    ship = {"reference": REFERENCE, "currency": "AED", "max_total": PLENTY}
    shipping = Person().shipping
    sent = await client.complete.deliver_items(CUSTOMER, {GOLD: 1}, shipping=shipping, **ship)
    assert sent.order.kind == OrderKind.DELIVERY
    again = await client.complete.deliver_items(CUSTOMER, {GOLD: 1}, shipping=shipping, **ship)
    assert (again.replayed, again.order_id) == (True, sent.order_id)
    with pytest.raises(InvalidInput, match="address differ"):
        other = attrs.evolve(shipping, city="Ankara")
        await client.complete.deliver_items(CUSTOMER, {GOLD: 1}, shipping=other, **ship)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("items", {"items": {}}),
        ("items", {"items": [(GOLD, 1)]}),
        ("qty", {"items": {GOLD: 0}}),
        ("qty", {"items": {GOLD: 1.5}}),
        ("qty", {"items": {GOLD: True}}),
        ("sku", {"items": {"": 1}}),
        ("customer_id", {"customer_id": ""}),
        ("reference", {"reference": ""}),
        ("reference", {"reference": "r" * 201}),
        ("max_total", {"max_total": 100.0}),
        ("max_total", {"max_total": Decimal("NaN")}),
        ("max_total", {"max_total": Decimal(-1)}),
        ("currency", {"currency": "aed"}),
        ("currency", {"currency": ""}),
        ("wait", {"wait": -1}),
        ("wait", {"wait": float("nan")}),
        ("wait", {"wait": True}),
        ("replace", {"replace": 1}),
    ],
)
async def test_bad_argument_raises_before_anything_is_sent(connect: Any, sandbox: Sandbox, field: str, changes: Any):
    client = await connect(sandbox.url, sandbox.username, sandbox.password)
    arguments = {"customer_id": CUSTOMER, "items": {GOLD: 1}, **changes}
    customer, items = arguments.pop("customer_id"), arguments.pop("items")
    defaults = {"reference": REFERENCE, "max_total": PLENTY, "currency": "AED"}
    with pytest.raises(InvalidInput) as caught:
        await client.complete.buy_items(customer, items, **{**defaults, **arguments})
    assert caught.value.field == field
    assert sandbox.requests.total == 0


async def test_basket_in_another_currency_raises_invalid_input(shop: Shop):
    client = await customer_of(shop)
    await shop.fill(client, customer_id="customer-2")
    sent = changes_of(shop)
    with pytest.raises(InvalidInput, match="the basket is in AED"):
        await buy_items(client, currency="USD", customer_id="customer-2")
    assert changes_of(shop) == sent
    with pytest.raises(InvalidInput, match="the basket is in AED"):
        await buy_items(client, currency="USD")
    assert shop.sent() == 0


@pytest.mark.requirement(47)
async def test_second_caller_of_a_reference_raises_already_in_flight(shop: Shop, observed: ObservedJournal):
    first, second = await customer_of(shop), await shop.client()
    refused = []

    async def call_again() -> None:
        for reference in (REFERENCE, "another"):
            with pytest.raises(AlreadyInFlight, match="another call is completing items") as caught:
                await buy_items(second, reference=reference)
            refused.append(caught.value)

    observed.before["prepare"] = call_again
    await buy_items(first)
    assert len(refused) == 2
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_second_caller_waits_and_gets_the_completion(shop: Shop):
    clients = [await customer_of(shop, options=Options()), await shop.client(options=Options())]
    bought = await asyncio.gather(*(buy_items(one, wait=30.0) for one in clients))
    assert sorted(one.replayed for one in bought) == [False, True]
    assert len({one.order_id for one in bought}) == 1
    assert len(shop.sandbox.shop.orders) == 1


async def test_other_reference_waits_for_the_customer(shop: Shop):
    clients = [await customer_of(shop, options=Options()), await shop.client(options=Options())]
    calls = [buy_items(one, reference=name, wait=30.0) for one, name in zip(clients, "ab", strict=True)]
    bought = await asyncio.gather(*calls)
    assert len({one.order_id for one in bought}) == 2


@pytest.mark.requirement(47)
async def test_basket_of_a_claim_is_not_completed_by_another_client(shop: Shop, observed: ObservedJournal):
    first, second = await shop.client(), await shop.client()
    basket = await shop.fill(first)

    async def complete_beside() -> None:
        with pytest.raises(AlreadyInFlight, match="this customer"):
            await second.complete.buy(basket, expected_total=basket.paid_total)

    observed.after["claim"] = complete_beside
    completion = await buy_items(first, {GOLD: 1, SILVER: 1})
    assert {item.sku: item.amount for item in completion.order.items} == {GOLD: 1, SILVER: 1}
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_no_change_is_sent_with_a_lost_claim(shop: Shop, observed: ObservedJournal):
    """The process was suspended after its claim, which another call has taken over since."""
    client = await customer_of(shop)

    async def take_over() -> None:
        shop.clock.suspend(121)
        await observed.journal.release_claim(observed.claims[0], grace=0)

    observed.after["claim"] = take_over
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await buy_items(client)
    assert changes_of(shop) == []


async def test_claim_is_renewed_between_steps(shop: Shop, observed: ObservedJournal):
    client = await customer_of(shop)
    observed.after["claim"] = lambda: shop.clock.suspend(61)
    await buy_items(client)
    assert observed.writes == ["claim", "renew_claim", "prepare", "settle"]


@pytest.mark.parametrize("flavour", ["async"])
async def test_call_cancelled_while_it_claims_frees_customer(shop: Shop, observed: ObservedJournal):
    client = await customer_of(shop)
    call = asyncio.ensure_future(buy_items(client))
    observed.after["claim"] = lambda: call.cancel() and None
    with pytest.raises(asyncio.CancelledError):
        await call
    assert observed.writes == ["claim", "release_claim"]
    observed.after.clear()
    assert not (await buy_items(client, reference="another")).replayed


@pytest.mark.requirement(47)
async def test_change_is_not_sent_once_the_claim_has_expired(shop: Shop, observed: ObservedJournal):
    """The claim expires after the last check before the change is sent."""
    client = await customer_of(shop)
    observed.after["claim"] = lambda: shop.clock.suspend(61)
    observed.after["renew_claim"] = lambda: shop.clock.suspend(121)
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await buy_items(client)
    assert observed.writes == ["claim", "renew_claim", "release_claim"]
    assert changes_of(shop) == []


@pytest.mark.requirement(47)
@pytest.mark.parametrize(("name", "arguments"), [("drop_before_read", {}), ("status", {"status": 409})])
async def test_change_that_may_still_be_executed_keeps_the_claim(shop: Shop, name: str, arguments: Any):
    client = await customer_of(shop, timeouts=Timeouts(read=0.5, total=25.0), retry=None)
    fault = shop.sandbox.faults.add(name, path=BASKET, method="POST", **arguments)
    reads = shop.sandbox.faults.add("status", path=BASKET, method="GET", status=500, after=1)
    with pytest.raises(BasketIncomplete):
        await buy_items(client)
    fault.remove()
    reads.remove()
    for reference in (REFERENCE, "another"):
        with pytest.raises(AlreadyInFlight, match=r"changes of an earlier call .* at the latest in 2\d s"):
            await buy_items(client, reference=reference)
    assert shop.sent() == 0


@pytest.mark.requirement(47)
async def test_order_of_the_basket_of_an_earlier_call_is_replayed(shop: Shop):
    """Another program, without the journal, completes the basket of an earlier call."""
    client, completed = await complete_elsewhere(shop)
    again = await buy_items(client)
    assert (again.replayed, again.order_id) == (True, completed.order_id)
    assert len(shop.sandbox.shop.orders) == 1


async def test_basket_of_an_earlier_call_that_made_no_order_is_replaced(shop: Shop, observed: ObservedJournal):
    client = await customer_of(shop)
    with pytest.raises(PriceChanged):
        await buy_items(client, max_total=Decimal(1))
    gone = attrs.evolve(observed.claims[0], cart_token="x" * 32)
    await observed.journal.release_claim(gone, grace=0)
    observed.writes.clear()
    completion = await buy_items(client)
    assert not completion.replayed
    assert observed.writes == ["claim", "renew_claim", "prepare", "settle"]
    assert observed.claims[-1].generation == 2


@pytest.mark.requirement(47)
async def test_order_of_an_earlier_basket_with_other_items_blocks_the_reference(shop: Shop):
    client, _ = await complete_elsewhere(shop, adding=SILVER)
    with pytest.raises(AlreadyInFlight, match="use another reference"):
        await buy_items(client)
    assert len(shop.sandbox.shop.orders) == 1


async def test_sale_of_a_basket_that_was_seen_is_not_replayed(shop: Shop):
    """A call to buy saw a basket to sell with the same items, which another program has completed since."""
    client = await shop.client()
    await shop.buy(client, "bought")
    shop.advance(300)
    basket = await shop.fill(client, type="sell")
    with pytest.raises(InvalidInput, match="of kind sell"):
        await buy_items(client, reference="another")
    other = await shop.client(journal=MemoryJournal())
    sold = await other.complete.sell(basket, expected_total=basket.paid_total)
    completion = await buy_items(client, reference="another")
    assert (completion.replayed, completion.order.kind) == (False, OrderKind.BUY)
    assert completion.order_id != sold.order_id


async def test_order_of_another_customer_is_not_replayed(shop: Shop):
    client, _ = await complete_elsewhere(shop)
    await shop.create_customer(client, "another")
    basket = await client.baskets.add_item("another", sku=GOLD)
    completion = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (completion.replayed, completion.order.customer.external_id) == (False, "another")


@pytest.mark.requirement(47)
async def test_unreadable_orders_of_an_earlier_basket_raise_not_sent(shop: Shop):
    client, _ = await complete_elsewhere(shop)
    shop.sandbox.faults.add("status", path="*/orders*", status=404)
    with pytest.raises(NotSent, match="could not be read"):
        await buy_items(client)
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_unknown_outcome_is_reported_until_reconciled(shop: Shop):
    client = await customer_of(shop)
    shop.sandbox.faults.add("drop_after_commit", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown):
        await buy_items(client)
    with pytest.raises(OutcomeUnknown) as unknown:
        await buy_items(await shop.client(), wait=5.0)
    settled = await client.complete.reconcile(unknown.value)
    again = await buy_items(client)
    assert (again.replayed, again.order_id) == (True, settled.order_id)
    assert len(shop.sandbox.shop.orders) == 1


async def test_refused_items_can_be_bought_later(shop: Shop):
    client = await customer_of(shop)
    fault = shop.sandbox.faults.add("refusal", path=COMPLETE, status=422, commit="never")
    with pytest.raises(APIError):
        await buy_items(client)
    fault.remove()
    shop.advance()
    assert not (await buy_items(client)).replayed
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_failed_order_of_an_earlier_basket_raises_completion_rejected(shop: Shop):
    client, _ = await complete_elsewhere(shop)
    shop.sandbox.faults.add("order_status", path="*/orders*", name="Cancelled")
    with pytest.raises(CompletionRejected, match="use another reference"):
        await buy_items(client)


class PlainJournal:
    """A journal of an application, with the methods of `Journal` or of `ReferenceJournal` only."""

    def __init__(self, protocol: type) -> None:
        journal = MemoryJournal()
        for name in (name for name in dir(protocol) if not name.startswith("_")):
            setattr(self, name, getattr(journal, name))


@pytest.mark.parametrize(
    ("protocol", "missing"), [(Journal, "find_by_reference, find_claim"), (ReferenceJournal, "renew_claim")]
)
async def test_journal_without_claims_raises_configuration_error(
    connect: Any, sandbox: Sandbox, protocol: type, missing: str
):
    client = await connect(sandbox.url, sandbox.username, sandbox.password, journal=PlainJournal(protocol))
    with pytest.raises(ConfigurationError, match=missing):
        await buy_items(client)
    assert sandbox.requests.total == 0


async def test_claim_times_come_from_the_settings(shop: Shop, observed: ObservedJournal):
    policy = CompletionPolicy(claim_seconds=7.0, latest_landing=4.0)
    client = await customer_of(shop, policy=policy, timeouts=Timeouts(total=11.0))
    claims = []
    claim = observed.claim  # type: ignore[attr-defined]

    async def record(one: Any, **arguments: Any) -> Any:
        claims.append(one)
        return await claim(one, **arguments)

    observed.claim = record  # type: ignore[attr-defined]
    await buy_items(client)
    assert [(one.seconds, one.grace, one.saw_basket, one.cart_token) for one in claims] == [(7.0, 15.0, False, None)]


async def test_grace_is_not_shortened_by_a_deadline(shop: Shop, observed: ObservedJournal):
    """A server may execute a change after the caller has stopped to wait for the response."""
    client = await customer_of(shop, timeouts=Timeouts(total=11.0))
    await buy_items(client.with_options(deadline=2.0))
    assert observed.claims[0].grace == 11.0
    await buy_items(client.with_options(deadline=20.0), reference="another")
    assert observed.claims[1].grace == 20.0


@pytest.mark.requirement(47)
@pytest.mark.parametrize(("status", "is_kept"), [(409, True), (429, True), (403, True), (404, False), (422, False)])
async def test_refused_change_keeps_the_claim_if_it_may_be_executed(shop: Shop, status: int, is_kept: bool):
    client = await customer_of(shop, retry=None)
    refusal = {"status": status, "is_envelope": True, "commit": "never"}
    shop.sandbox.faults.add("refusal", path=BASKET, method="POST", times=1, **refusal)
    with pytest.raises((APIError, BasketIncomplete)):
        await buy_items(client)
    if is_kept:
        with pytest.raises(AlreadyInFlight, match="changes of an earlier call"):
            await buy_items(client, reference="another")
    else:
        await buy_items(client, reference="another")


@pytest.mark.requirement(47)
async def test_call_cancelled_while_it_claims_releases_the_claim(sandbox: Sandbox, clock: ManualClock):
    """The write of the claim is not interrupted, and the claim would block its customer until it expires."""
    options, journal = Options(clock=clock), ObservedJournal(MemoryJournal())
    async with AsyncMintedConnect(
        sandbox.username, sandbox.password, base_url=sandbox.url, options=options, journal=journal
    ) as client:
        await client.customers.create(CUSTOMER, firstname="Ada", lastname="Lovelace")
        call = asyncio.ensure_future(buy_items(client))

        async def cancel() -> None:
            call.cancel()
            await asyncio.sleep(0)

        journal.after["claim"] = cancel
        with pytest.raises(asyncio.CancelledError):
            await call
        journal.after.clear()
        assert journal.writes == ["claim", "release_claim"]
        assert not (await buy_items(client, reference="another")).replayed


async def test_claim_lost_while_the_basket_is_filled_raises_already_in_flight(shop: Shop, observed: ObservedJournal):
    client = await customer_of(shop)
    looks = []

    async def take_over() -> None:
        looks.append(True)
        if len(looks) == 1:  # before the second change
            shop.clock.suspend(121)
            await observed.journal.release_claim(observed.claims[0], grace=0)

    observed.before["find_active"] = take_over
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await buy_items(client, {GOLD: 1, SILVER: 1})
    assert changes_of(shop) == ["POST"]


async def test_waiting_for_a_claim_sends_no_requests(shop: Shop, observed: ObservedJournal):
    first, second = await customer_of(shop), await shop.client(options=Options())
    sent = []

    async def call_again() -> None:
        before = shop.sandbox.requests.total
        with pytest.raises(AlreadyInFlight, match="at the latest in"):
            await buy_items(second, wait=1.0)
        sent.append(shop.sandbox.requests.total - before)

    observed.before["prepare"] = call_again
    await buy_items(first)
    assert sent == [2]  # the login, and one read of the basket


async def test_delayed_reads_do_not_end_the_call(connect: Any, clock: ManualClock):
    """The reads before the completion do not show the changes of the call yet."""
    async with Sandbox(seed=1, clock=clock, reads_lag=6.0) as sandbox:
        options = Options(clock=clock, completion=CompletionPolicy(orders_lag=10.0))
        client = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
        await client.customers.create(CUSTOMER, firstname="Ada", lastname="Lovelace")
        clock.advance(7)
        completion = await buy_items(client, {GOLD: 1, SILVER: 2})
        assert {item.sku: item.amount for item in completion.order.items} == {GOLD: 1, SILVER: 2}
        # The basket's price lock has ended, and the reads show its renewal late, too.
        await client.baskets.add_item(CUSTOMER, sku=GOLD, type="buy")
        clock.advance(1000)
        assert not (await buy_items(client, reference="another")).replayed
        assert len(sandbox.shop.orders) == 2


@pytest.mark.requirement(47)
async def test_basket_that_a_delayed_read_hides_gets_no_further_items(shop: Shop):
    """The basket of a completion with an unknown outcome is open, and the reads do not show it."""
    client = await customer_of(shop, policy=CompletionPolicy(orders_lag=20.0))
    shop.sandbox.faults.add("drop_before_read", path=COMPLETE)
    with pytest.raises(OutcomeUnknown) as unknown:
        await buy_items(client)
    hidden = shop.sandbox.faults.add("status", path=BASKET, method="GET", status=404, times=None)
    for call in (buy_items(client, {SILVER: 1}, reference="another"), client.baskets.replace(CUSTOMER, {SILVER: 1})):
        with pytest.raises(AlreadyInFlight, match=f"a basket of this customer .*{unknown.value.intent.id}"):
            await call
    hidden.remove()
    [line] = (await client.baskets.get_active(CUSTOMER)).items
    assert (line.sku, line.amount) == (GOLD, 1)
