"""Journals with the intents of several accounts: which intents each account sees, and how intents are assigned."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import AsyncMintedConnect, MintedConnect, Options
from minted_connect.completion.preflight import build_intent
from minted_connect.errors import AlreadyInFlight, ConfigurationError, InvalidInput, JournalError, NotExecuted
from minted_connect.journal import open_journal, postgres, sqlite
from minted_connect.journal.accounts import account_of, account_of_user
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, JournalAccount
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Intent, IntentState, OrderKind, OrderProgress, OrderStatus, Refusal
from minted_connect.sandbox import Sandbox, ThreadedSandbox
from minted_connect.urls import check_base_url
from tests.completion.fakes import CUSTOMER, TOKEN, FakeApiClient, completions_of, intent_of, order_json
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio

MINE = JournalAccount("server", "mine")
OTHER = JournalAccount("server", "other")


def intent_owned_by(owner: JournalAccount | None, **changes: Any) -> Intent:
    owned = {} if owner is None else {"server": owner.server, "account": owner.account}
    return intent_of(**owned, **changes)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    return open_journal(tmp_path / "j.db" if request.param == "sqlite" else request.getfixturevalue("database").url)


# --- journals ------------------------------------------------------------------------------------------------------


async def test_send_limit_refusal_and_account_are_stored(journal: Journal) -> None:
    at = intent_of().created_at
    intent = intent_owned_by(MINE, send_before=at + timedelta(seconds=200), refusal=Refusal(403, False, at))
    await journal.prepare(intent)
    assert await journal.get(intent.id) == intent
    assert await journal.pending() == [intent]
    assert await journal.get("another") is None


async def test_record_refusal_stores_it_and_leaves_the_intent_open(journal: Journal) -> None:
    await journal.prepare(intent_of())
    refusal = Refusal(404, True, intent_of().created_at)
    await journal.record_refusal(intent_of().id, refusal)
    stored = attrs.evolve(intent_of(), state=IntentState.UNKNOWN, refusal=refusal)
    assert await journal.pending() == [stored]
    await journal.settle(intent_of().id, IntentState.REJECTED)
    await journal.record_refusal(intent_of().id, Refusal(500, False, intent_of().created_at))
    assert await journal.pending() == []
    settled = await journal.get(intent_of().id)
    assert settled == attrs.evolve(stored, state=IntentState.REJECTED)


@pytest.mark.requirement(48)
async def test_intents_of_accounts_with_equal_baskets_are_separate(journal: Journal) -> None:
    await journal.prepare(intent_owned_by(MINE, id="mine"))
    await journal.prepare(intent_owned_by(OTHER, id="other"))
    for owner in (MINE, OTHER):
        active = await journal.find_active(CUSTOMER, TOKEN, account=owner.account)
        assert active is not None
        assert active.account == owner.account
        with pytest.raises(AlreadyInFlight, match=owner.account):
            await journal.prepare(intent_owned_by(owner, id="again"))
    await journal.settle("mine", IntentState.CONFIRMED)
    await journal.settle("other", IntentState.CONFIRMED)
    progress = OrderProgress(OrderStatus.COMPLETED, is_final=True)
    await journal.save_progress(CUSTOMER, TOKEN, progress, account="mine")
    assert [intent.id for intent in await journal.awaiting_completion()] == ["other"]


@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN, IntentState.CONFIRMED])
async def test_intent_without_account_holds_basket_for_every_account(journal: Journal, state: IntentState) -> None:
    await journal.prepare(intent_of(id="old"))
    await journal.settle("old", state)
    for owner in (MINE, OTHER):
        active = await journal.find_active(CUSTOMER, TOKEN, account=owner.account)
        assert active is not None
        assert active.id == "old"
        with pytest.raises(AlreadyInFlight, match="old"):
            await journal.prepare(intent_owned_by(owner, id="new"))


async def test_settle_assigns_owner_to_intent_without_account_only(journal: Journal) -> None:
    await journal.prepare(intent_of(id="old"))
    await journal.prepare(intent_owned_by(OTHER, id="other", cart_token="other"))
    for name in ("old", "other"):
        await journal.settle(name, IntentState.UNKNOWN)
        await journal.settle(name, IntentState.CONFIRMED, owner=MINE)
    owners = {intent.id: (intent.server, intent.account) for intent in await journal.awaiting_completion()}
    assert owners == {"old": ("server", "mine"), "other": ("server", "other")}


async def test_adopted_intent_belongs_to_the_new_account(journal: Journal) -> None:
    await journal.prepare(intent_owned_by(OTHER))
    await journal.adopt(intent_of().id, MINE)
    assert await journal.pending() == [intent_owned_by(MINE)]
    assert await journal.find_active(CUSTOMER, TOKEN, account="other") is None
    await journal.adopt("another", MINE)
    assert await journal.get("another") is None


async def test_adopt_of_a_second_open_intent_is_refused(journal_location: str) -> None:
    journal = open_journal(journal_location)
    await journal.prepare(intent_owned_by(MINE, id="mine"))
    await journal.prepare(intent_owned_by(OTHER, id="other"))
    with pytest.raises(JournalError, match="another intent has the same basket"):
        await journal.adopt("other", MINE)


async def test_newer_schema_raises_an_error_with_the_remedy(
    journal_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_journal(journal_location).prepare(intent_of())
    module = postgres if journal_location.startswith("postgresql") else sqlite
    now = module.VERSION
    monkeypatch.setattr(module, "VERSION", now - 1)
    journal, message = (
        open_journal(journal_location),
        f"has schema {now}, this library knows {now - 1}: upgrade the library",
    )
    with pytest.raises(JournalError, match=message):
        await journal.pending()
    with pytest.raises(JournalError, match=message):
        await journal.prepare(intent_of(id="second"))


async def test_columns_of_later_versions_exist(journal_location: str, request: pytest.FixtureRequest) -> None:
    await open_journal(journal_location).prepare(intent_of())
    names = "reference, terms, claim_generation, corrections"
    if journal_location.startswith("postgresql"):
        database = request.getfixturevalue("database")
        assert database.execute(f"SELECT {names} FROM minted_connect_intents") == [(None,) * 4]
        assert database.execute("SELECT * FROM minted_connect_claims") == []
    else:
        connection = sqlite3.connect(journal_location)
        assert connection.execute(f"SELECT {names} FROM intents").fetchall() == [(None,) * 4]
        assert connection.execute("SELECT * FROM claims").fetchall() == []
        connection.close()


# --- the account of a client ---------------------------------------------------------------------------------------


def client_of(username: str = "partner", base_url: str = "https://example.com", **options: Any) -> AsyncMintedConnect:
    return AsyncMintedConnect(username, "secret", base_url=base_url, options=Options(**options))


def owner_of(client: AsyncMintedConnect) -> JournalAccount:
    return account_of(client._api)


def test_server_and_account_are_two_hashes() -> None:
    one = owner_of(client_of())
    assert one == owner_of(client_of()) == account_of_user("https://example.com/", "partner", None)
    assert one.account == client_of()._api.account
    assert len(one.server) == len(one.account) == 64
    assert one.server != one.account
    other_user, other_server = owner_of(client_of("other")), owner_of(client_of(base_url="https://example.org"))
    assert (other_user.server, other_server.account) != (one.server, one.account)
    assert other_user.server == one.server
    assert other_user.account != one.account != other_server.account


def test_named_account_is_independent_of_user_and_host() -> None:
    named = owner_of(client_of(journal_account="shop"))
    moved = owner_of(client_of("other", "https://example.org", journal_account="shop"))
    assert named.account == moved.account
    assert named.server != moved.server
    assert account_of_user("https://example.com", "partner", "shop") == named
    assert owner_of(client_of(journal_account="shop 2")).account != named.account
    assert "shop" not in repr(Options(journal_account="shop"))


@pytest.mark.parametrize("url", ["https://EXAMPLE.com", "HTTPS://example.com:443/", "https://example.com:443"])
def test_account_is_independent_of_the_spelling_of_the_url(url: str) -> None:
    assert owner_of(client_of(base_url=url)) == owner_of(client_of())
    assert check_base_url(url) == "https://example.com"


@pytest.mark.parametrize("wrong", ["", " ", "a\nb", "a\0", " a", "a ", 7, b"a", "\ud800"])
def test_invalid_account_name_is_rejected(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Options\.journal_account: must "):
        Options(journal_account=wrong)


@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
def test_from_env_reads_the_journal_account(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("USERNAME", "partner"), ("PASSWORD", "secret"), ("JOURNAL_ACCOUNT", "shop")):
        monkeypatch.setenv(f"MINTED_CONNECT_{name}", value)

    def name_of(built: Any) -> Any:
        inner = built if client is AsyncMintedConnect else built._inner
        return inner._api.settings.options.journal_account

    assert name_of(client.from_env()) == "shop"
    assert name_of(client.from_env(options=Options(pool_size=2))) == "shop"
    assert name_of(client.from_env(options=Options(journal_account="other"))) == "other"


def test_new_intent_belongs_to_the_account_of_the_client() -> None:
    api = FakeApiClient()
    intent = build_intent(api.seen_basket(), OrderKind.BUY, api, (), api.clock.wall())
    assert (intent.server, intent.account) == (account_of(api).server, account_of(api).account)


# --- intents of other accounts -------------------------------------------------------------------------------------


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


@pytest.mark.requirement(48)
async def test_lists_exclude_other_accounts_and_log_their_number(
    api: FakeApiClient, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    complete, own = completions_of(api, journal), account_of(api)
    for name, owner in (("mine", own), ("old", None), ("other 1", OTHER), ("other 2", OTHER)):
        await journal.prepare(intent_owned_by(owner, id=name, cart_token=name))
        await journal.prepare(intent_owned_by(owner, id=f"{name} done", cart_token=f"{name} done"))
        await journal.settle(f"{name} done", IntentState.CONFIRMED)
    assert [intent.id for intent in await complete.pending()] == ["mine", "old"]
    assert [intent.id for intent in await complete.unfinished()] == ["mine done", "old done"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split(" (")[0] for text in warnings] == [
        "2 open intents of other accounts in this journal are left out",
        "2 unfinished intents of other accounts in this journal are left out",
    ]
    await complete.pending()  # an unchanged number is not logged again
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2
    assert len(await complete.pending(all_accounts=True)) == 4
    assert len(await complete.unfinished(all_accounts=True)) == 4
    with pytest.raises(InvalidInput, match="all_accounts"):
        await complete.pending(all_accounts=1)  # type: ignore[arg-type]


@pytest.mark.requirement(48)
async def test_intent_of_another_account_is_not_read_back_or_decided(api: FakeApiClient, journal: Journal) -> None:
    complete = completions_of(api, journal)
    await journal.prepare(intent_owned_by(OTHER))
    for intent in (
        intent_owned_by(OTHER),
        intent_of(),
    ):  # the account in the journal decides, not the one in the argument
        for call in (complete.reconcile(intent, fence=True), complete.decide(intent, "rejected")):
            with pytest.raises(InvalidInput, match=r"intent_or_error.*belongs to another account.*complete\.adopt"):
                await call
    assert api.sent == []
    assert await journal.pending() == [intent_owned_by(OTHER)]


async def test_adopted_intent_is_reconciled(
    api: FakeApiClient, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    complete = completions_of(api, journal)
    await journal.prepare(intent_owned_by(OTHER))
    adopted = await complete.adopt(intent_owned_by(OTHER))
    assert adopted.account == account_of(api).account
    assert "assigned to this account; it was prepared for another server" in caplog.text
    assert await complete.pending() == [adopted]
    api.orders = [order_json()]
    assert (await complete.reconcile(intent_owned_by(OTHER))).reconciled
    assert await journal.pending() == []


async def test_unknown_intent_is_not_decided_or_adopted(api: FakeApiClient, journal: Journal) -> None:
    complete = completions_of(api, journal)
    for call in (complete.decide(intent_of(), "confirmed"), complete.adopt(intent_of())):
        with pytest.raises(InvalidInput, match=r"intent_or_error.*is not in this journal"):
            await call


async def test_order_or_decision_assigns_account(api: FakeApiClient, journal: Journal) -> None:
    complete, own = completions_of(api, journal), account_of(api)
    for name in ("found", "decided"):
        await journal.prepare(intent_of(id=name, cart_token=TOKEN if name == "found" else name))
    api.orders = [order_json()]
    await complete.reconcile(intent_of(id="found"))
    await complete.decide(intent_of(id="decided"), "rejected")
    for name in ("found", "decided"):
        stored = await journal.get(name)
        assert stored is not None
        assert (stored.server, stored.account) == (own.server, own.account)


async def test_verdict_without_an_order_assigns_no_account(api: FakeApiClient, journal: Journal) -> None:
    policy = attrs.evolve(api.settings.options.completion, latest_landing=1.0, orders_lag=1.0)
    await journal.prepare(intent_of())
    with pytest.raises(NotExecuted):
        await completions_of(api.with_policy(policy), journal).reconcile(intent_of())
    stored = await journal.get(intent_of().id)
    assert stored is not None
    assert stored.account is None


# --- with a sandbox server -----------------------------------------------------------------------------------------


@pytest.fixture
def shop() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox() as server:
        yield server


@pytest.mark.requirement(48)
async def test_named_account_buys_once_after_host_change(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    options = Options(journal_account="shop")
    async with Sandbox() as sandbox:
        hosts = (sandbox.url, sandbox.url.replace("127.0.0.1", "localhost"))
        first, second = (
            AsyncMintedConnect(sandbox.username, sandbox.password, base_url=host, journal=path, options=options)
            for host in hosts
        )
        async with first, second:
            await first.customers.create("customer-1")
            basket = await first.baskets.add_item("customer-1", sku=GOLD)
            await first.complete.buy(basket, expected_total=basket.paid_total)
            with pytest.raises(AlreadyInFlight):
                await second.complete.buy(basket, expected_total=basket.paid_total)
            assert [one.id for one in await second.complete.unfinished()] == [
                one.id for one in await first.complete.unfinished()
            ]
        assert len(sandbox.shop.orders) == 1


def test_blocking_client_adopts_an_intent(shop: ThreadedSandbox, tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    with MintedConnect(shop.username, shop.password, base_url=shop.url, journal=journal) as minted:
        minted._run(journal.prepare(intent_owned_by(OTHER)))
        assert minted.complete.pending() == []
        [intent] = minted.complete.pending(all_accounts=True)
        assert minted.complete.adopt(intent).account != "other"
        assert [one.id for one in minted.complete.pending()] == [intent.id]
