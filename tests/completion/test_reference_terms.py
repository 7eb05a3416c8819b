"""References: their terms, and who may use them in a journal."""

from __future__ import annotations

import json

import attrs
import pytest

from minted_connect import Options
from minted_connect.errors import (
    ConfigurationError,
    InvalidInput,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.models import OrderKind
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import SHIPPING
from tests.completion.shops import CUSTOMER, REFERENCE, Shop
from tests.support.operations import GOLD, SILVER


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"qty": 2}, "pieces"),
        ({"sku": SILVER}, "pieces"),
        ({"customer_id": "customer-2"}, "customer"),
        ({"type": "sell"}, "kind"),
    ],
)
async def test_reference_with_other_terms_raises_invalid_input(shop: Shop, change, differing):
    client = await shop.client()
    await shop.buy(client)
    basket = await shop.fill(client, **change)
    complete = client.complete.sell if basket.kind == OrderKind.SELL else client.complete.buy
    with pytest.raises(InvalidInput, match=f"other terms .*: {differing} differ") as caught:
        await complete(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert CUSTOMER not in str(caught.value)
    assert shop.sent() == 1


async def test_delivery_reference_with_another_address_raises_invalid_input(shop: Shop):
    client = await shop.client()
    await shop.buy(client, "purchase", qty=2)
    for shipping, raises in ((SHIPPING, False), (SHIPPING, False), (attrs.evolve(SHIPPING, city="Ankara"), True)):
        basket = await shop.fill(client, type="delivery")
        call = client.complete.delivery(
            basket, shipping=shipping, expected_total=basket.paid_total, reference=REFERENCE
        )
        if raises:
            with pytest.raises(InvalidInput, match=": address differ"):
                await call
        else:
            assert (await call).order is not None
    [intent] = await shop.intents()
    assert SHIPPING.city not in json.dumps(intent.terms, ensure_ascii=False)


@pytest.mark.parametrize("reference", ["", " ", "a\nb", "x" * 201, 5, "\ud800"])
async def test_reference_that_cannot_be_stored_raises_invalid_input(minted, sandbox: Sandbox, reference):
    await minted.customers.create(CUSTOMER, firstname="Brant", lastname="Ankunding")
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=1, type="buy")
    total = sandbox.requests.total
    with pytest.raises(InvalidInput, match="reference"):
        await minted.complete.buy(basket, expected_total=basket.paid_total, reference=reference)
    assert sandbox.requests.total == total


async def test_references_of_another_user_require_journal_account(shop: Shop):
    await shop.buy(await shop.client(), "first")
    shop.sandbox.add_partner("second", "password")
    options = Options(clock=shop.clock)
    second = await shop._connect(shop.sandbox.url, "second", "password", journal=shop.location, options=options)
    with pytest.raises(ConfigurationError, match=r"journal_account.*complete\.adopt"):
        await shop.buy(second, "first", customer_id="customer-2")
    named_options = attrs.evolve(options, journal_account="second")
    again = await shop._connect(shop.sandbox.url, "second", "password", journal=shop.location, options=named_options)
    assert not (await shop.buy(again, "first", customer_id="customer-3")).replayed


class PlainJournal:
    """A journal of one's own without the methods for references."""

    def __init__(self) -> None:
        journal = MemoryJournal()
        for name in vars(Journal):
            if not name.startswith("_"):
                setattr(self, name, getattr(journal, name))


async def test_own_journal_without_methods_raises_configuration_error(connect, sandbox: Sandbox, clock: ManualClock):
    shop = Shop(connect, sandbox, clock, PlainJournal())
    client = await shop.client()
    basket = await shop.fill(client)
    with pytest.raises(ConfigurationError, match="PlainJournal lacks find_by_reference, find_other_references"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (await client.complete.buy(basket, expected_total=basket.paid_total)).order is not None
