"""Limits in the journals: which purchases count for a day, and which are refused."""

from __future__ import annotations

import asyncio
import decimal
import os
import pickle
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minted_connect import SpendingLimit
from minted_connect.errors import AlreadyInFlight, ConfigurationError, JournalError, LimitExceeded
from minted_connect.journal import open_journal
from minted_connect.journal.claims import Claim
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.journal.postgres_transaction import lock, lock_accounts
from minted_connect.journal.protocol import JournalAccount, ReferenceKey
from minted_connect.journal.spending import SpendingCheck, SpendingJournal
from minted_connect.models import Intent, IntentState, OrderKind, OrderProgress, OrderStatus
from tests.completion.fakes import intent_of
from tests.completion.test_postgres import wait_until
from tests.support.postgres import Database

MINE = JournalAccount("server", "mine")
OTHER = JournalAccount("server", "other")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CONFIRMED = IntentState.CONFIRMED


@pytest.fixture
async def journal(journal_location: str) -> Any:
    journal = open_journal(journal_location)
    yield journal
    await journal.aclose()


def purchase(name: str, total: str | Decimal = "100", *, owner: JournalAccount | None = MINE, **changes: Any) -> Intent:
    """Return an intent with a customer and a basket of its own."""
    defaults: dict[str, Any] = {
        "external_customer_id": f"customer-{name}",
        "cart_token": name,
        "state": IntentState.PREPARED,
        "created_at": NOON,
        "server": None if owner is None else owner.server,
        "account": None if owner is None else owner.account,
    }
    return intent_of(id=name, paid_total=Decimal(total), **{**defaults, **changes})


def check(owner: JournalAccount = MINE, *, unnamed: str | None = None, **limits: str) -> SpendingCheck:
    amounts = {name: Decimal(limit) for name, limit in (limits or {"per_day": "250"}).items()}
    limit = SpendingLimit(currency="AED", **amounts)
    return SpendingCheck(limit, owner.account, unnamed or owner.account)


def progress(total: str, currency: str = "AED") -> OrderProgress:
    return OrderProgress(OrderStatus.PENDING, paid_total=Decimal(total), currency_code=currency)


async def test_purchase_above_the_limit_of_a_day_is_refused(journal):
    await journal.prepare(purchase("first"), spending=check())
    await journal.prepare(purchase("second", "150"), spending=check())
    with pytest.raises(LimitExceeded) as caught:
        await journal.prepare(purchase("third", "0.01"), spending=check())
    error = caught.value
    assert (error.limit, error.maximum, error.spent, error.amount) == ("per_day", Decimal(250), 250, Decimal("0.01"))
    assert not error.safe_to_retry
    assert str(error) == (
        "SpendingLimit.per_day: this account has spent 250 of 250 AED on 2026-11-30 (UTC), and this purchase would add "
        "0.01: nothing was sent"
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.limit, copy.spent, str(copy)) == ("per_day", Decimal(250), str(error))
    assert await journal.get("third") is None


async def test_limit_of_a_customer_counts_that_customer_only(journal):
    limits = check(per_customer_per_day="150", per_day="1000")
    await journal.prepare(purchase("first", external_customer_id="ada"), spending=limits)
    await journal.prepare(purchase("second", external_customer_id="bob"), spending=limits)
    with pytest.raises(LimitExceeded, match=r"per_customer_per_day: this customer has spent 100 of 150 AED") as caught:
        await journal.prepare(purchase("third", external_customer_id="ada"), spending=limits)
    assert caught.value.limit == "per_customer_per_day"
    await journal.prepare(purchase("fourth", "50", external_customer_id="ada"), spending=limits)


async def test_limit_of_a_purchase_is_checked_without_others(journal):
    with pytest.raises(LimitExceeded, match=r"per_purchase: this purchase costs 100 AED, more than 99") as caught:
        await journal.prepare(purchase("first"), spending=check(per_purchase="99"))
    assert caught.value.spent is None
    await journal.prepare(purchase("first"), spending=check(per_purchase="100"))
    await journal.prepare(purchase("second"), spending=check(per_purchase="100"))


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (IntentState.PREPARED, True),
        (IntentState.UNKNOWN, True),
        (IntentState.CONFIRMED, True),
        (IntentState.REJECTED, False),
        (IntentState.NOT_SENT, False),
        (IntentState.NOT_EXECUTED, False),
    ],
)
async def test_only_open_and_confirmed_purchases_count(journal, state, counts):
    await journal.prepare(purchase("first", "250"), spending=check())
    if state != IntentState.PREPARED:
        await journal.settle("first", state)
    if not counts:
        await journal.prepare(purchase("second"), spending=check())
        return
    with pytest.raises(LimitExceeded):
        await journal.prepare(purchase("second"), spending=check())


@pytest.mark.parametrize("kind", [OrderKind.SELL, OrderKind.DELIVERY])
async def test_sales_and_deliveries_do_not_count(journal, kind):
    await journal.prepare(purchase("first", "250", kind=kind))
    await journal.prepare(purchase("second", "250"), spending=check())


async def test_confirmation_after_midnight_counts_for_the_day_before(journal):
    midnight = datetime(2026, 12, 1, tzinfo=UTC)
    await journal.prepare(purchase("first", "250", created_at=midnight - timedelta(seconds=1)), spending=check())
    await journal.settle("first", CONFIRMED, order_id=1, progress=progress("260"))
    await journal.prepare(purchase("second", "250", created_at=midnight), spending=check())
    with pytest.raises(LimitExceeded, match="250 of 250 AED on 2026-12-01"):
        await journal.prepare(
            purchase("third", created_at=midnight + DAY - timedelta(microseconds=1)), spending=check()
        )
    with pytest.raises(LimitExceeded, match="260 of 250 AED on 2026-11-30"):
        await journal.prepare(purchase("third", created_at=midnight - timedelta(seconds=2)), spending=check())
    await journal.prepare(purchase("third", created_at=midnight + DAY), spending=check())


@pytest.mark.parametrize("hours", [-23, -12, 3, 14, 23])
async def test_days_are_those_of_utc_whatever_the_offset(journal, hours):
    zone = timezone(timedelta(hours=hours))
    for number, moment in enumerate((NOON.replace(hour=0), NOON.replace(hour=23, minute=59))):
        await journal.prepare(purchase(f"same-{number}", "100", created_at=moment.astimezone(zone)), spending=check())
    for name, moment in (("before", NOON.replace(hour=0) - DAY), ("after", NOON.replace(hour=0) + DAY)):
        await journal.prepare(purchase(name, "100", created_at=moment.astimezone(zone)))
    with pytest.raises(LimitExceeded, match="200 of 250 AED on 2026-11-30"):
        await journal.prepare(purchase("last", "51"), spending=check())
    await journal.prepare(purchase("last", "50"), spending=check())


@pytest.mark.parametrize(
    ("order", "counted"), [(progress("120"), "120"), (progress("80"), "100"), (progress("120", "TRY"), "100")]
)
async def test_higher_total_of_the_order_counts(journal, order, counted):
    await journal.prepare(purchase("first"), spending=check())
    await journal.settle("first", CONFIRMED, order_id=1, progress=order)
    with pytest.raises(LimitExceeded) as caught:
        await journal.prepare(purchase("second", "200"), spending=check())
    assert caught.value.spent == Decimal(counted)


async def test_saved_progress_keeps_the_total_of_the_order(journal):
    await journal.prepare(purchase("first"), spending=check())
    await journal.settle("first", CONFIRMED, order_id=1, progress=progress("120"))
    final = OrderProgress(OrderStatus.COMPLETED, is_final=True, paid_total=Decimal(120), currency_code="AED")
    await journal.save_progress("customer-first", "first", final, account=MINE.account)
    stored = await journal.get("first")
    assert stored is not None
    assert stored.progress is not None
    assert (stored.progress.is_final, stored.progress.paid_total, stored.progress.currency_code) == (True, 120, "AED")
    with pytest.raises(LimitExceeded, match="120 of 250"):
        await journal.prepare(purchase("second", "131"), spending=check())


async def test_progress_of_an_older_version_counts_as_agreed(tmp_path):
    journal = open_journal(tmp_path / "j.db")
    await journal.prepare(purchase("first"))
    with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
        old = '{"status": "Pending", "is_final": false, "cargo_tracking_number": null, "estimated_arrival_date": null}'
        database.execute("UPDATE intents SET state = 'confirmed', progress = ?", (old,))
    with pytest.raises(LimitExceeded, match="100 of 250"):
        await cast("SpendingJournal", journal).prepare(purchase("second", "151"), spending=check())
    await journal.aclose()


async def test_purchases_of_other_accounts_do_not_count(journal):
    await journal.prepare(purchase("first", "250", owner=OTHER), spending=check(OTHER))
    await journal.prepare(purchase("second", "250"), spending=check())


async def test_purchases_before_the_account_was_named_count(journal):
    named = JournalAccount("server", "named")
    await journal.prepare(purchase("first"), spending=check())
    await journal.prepare(purchase("old", owner=None))
    with pytest.raises(LimitExceeded, match="200 of 250"):
        await journal.prepare(purchase("second", owner=named), spending=check(named, unnamed=MINE.account))


async def test_other_currency_raises_configuration_error(journal):
    with pytest.raises(ConfigurationError, match="limits are in AED, and this purchase is in TRY"):
        await journal.prepare(purchase("first", currency_code="TRY"), spending=check())
    await journal.prepare(purchase("first", currency_code="TRY"))
    await journal.prepare(purchase("tomorrow", created_at=NOON + DAY), spending=check())
    with pytest.raises(ConfigurationError, match="intent first of the same day is in TRY"):
        await journal.prepare(purchase("second"), spending=check())
    await journal.settle("first", IntentState.NOT_SENT)
    await journal.prepare(purchase("second"), spending=check())


async def test_active_basket_is_reported_before_the_limit(journal):
    await journal.prepare(purchase("first", "250"), spending=check())
    again = attrs.evolve(purchase("first", "250"), id="second")
    with pytest.raises(AlreadyInFlight):
        await journal.prepare(again, spending=check())


@pytest.mark.parametrize(
    "change", ["paid_total = 'NaN'", "paid_total = 'much'", "created_at = '2026-11-30'", "progress = '{'"]
)
async def test_unreadable_purchase_raises_journal_error(tmp_path, change):
    journal = open_journal(tmp_path / "j.db")
    await journal.prepare(purchase("first"))
    with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
        database.execute(f"UPDATE intents SET {change}")
    with pytest.raises(JournalError, match=r"cannot be read: intent first\. Nothing is bought"):
        await cast("SpendingJournal", journal).prepare(purchase("second"), spending=check())
    await journal.prepare(purchase("second"))
    await journal.aclose()


async def test_sums_are_exact_in_every_decimal_context(tmp_path):
    journal = cast("SpendingJournal", open_journal(tmp_path / "j.db"))
    large, limits = "1" + "0" * 40, check(per_day="1" + "0" * 40 + ".02")
    with decimal.localcontext(prec=2):
        await journal.prepare(purchase("first", large), spending=limits)
        await journal.prepare(purchase("second", "0.01"), spending=limits)
        with pytest.raises(LimitExceeded):
            await journal.prepare(purchase("third", "0.011"), spending=limits)
        await journal.prepare(purchase("third", "0.01"), spending=limits)
    await journal.aclose()


async def test_limits_apply_with_reference_and_claim(journal):
    key = ReferenceKey("plan/1", MINE, MINE.account)
    claim = Claim(
        key, "ada", OrderKind.BUY, "{}", owner="owner", seconds=60, grace=0, saw_basket=False, cart_token="first",
        created_at=NOON,
    )  # fmt: skip
    claim = await journal.claim(claim, known=[])
    intent = purchase("first", "251", external_customer_id="ada", reference="plan/1", terms="{}")
    with pytest.raises(LimitExceeded):
        await journal.prepare(intent, key=key, claim=claim, frees_customer=True, spending=check())
    await journal.prepare(
        attrs.evolve(intent, paid_total=Decimal(250)), key=key, claim=claim, frees_customer=True, spending=check()
    )
    with pytest.raises(LimitExceeded):
        await journal.prepare(purchase("second"), spending=check())


async def test_concurrent_purchases_never_exceed_the_limit(journal_location):
    journals = [cast("SpendingJournal", open_journal(journal_location)) for _ in range(8)]
    calls = [one.prepare(purchase(f"p-{number}"), spending=check()) for number, one in enumerate(journals)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["LimitExceeded"] * 6 + ["NoneType"] * 2
    for one in journals:
        await one.aclose()


async def test_postgres_locks_account_before_reference_and_customer(database: Database):
    import psycopg

    journal = PostgresJournal(database.url)
    await journal.prepare(purchase("first"))
    count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    async with await psycopg.AsyncConnection.connect(database.url) as holder:
        await lock_accounts(holder, [MINE.account])
        intent = purchase("second", reference="plan/1", terms="{}")
        key = ReferenceKey("plan/1", MINE, MINE.account)
        running = asyncio.ensure_future(journal.prepare(intent, key=key, spending=check()))
        await wait_until(lambda: database.execute("SELECT 1 FROM pg_locks WHERE locktype='advisory' AND NOT granted"))
        # It waits for the account, and holds neither reference nor customer.
        assert database.execute(count) == [(1,)]
        await lock(holder, "plan/1", intent.external_customer_id)
        await holder.rollback()
        await running


Step = tuple[str, int, int, Decimal]
_AMOUNTS = st.decimals(min_value=0, max_value=300, places=2)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "buy", "buy", "confirm", "unknown", "reject", "not_executed", "order"]),
        st.integers(0, 7),
        st.integers(0, 2),
        _AMOUNTS,
    ),
    max_size=14,
)


class Model:
    """The plain rules: a list of purchases, and the sums of a day."""

    def __init__(self, limit: SpendingLimit) -> None:
        self.limit = limit
        self.purchases: list[dict[str, Any]] = []

    def sum(self, day: date, customer: str | None = None) -> Decimal:
        counted = [
            max(one["agreed"], one["ordered"])
            for one in self.purchases
            if one["day"] == day and one["state"] in {"open", "confirmed"} and customer in {None, one["customer"]}
        ]
        return sum(counted, Decimal(0))

    def refusing_limit(self, day: date, customer: str, amount: Decimal) -> str | None:
        limit = self.limit
        if limit.per_purchase is not None and amount > limit.per_purchase:
            return "per_purchase"
        if limit.per_customer_per_day is not None and self.sum(day, customer) + amount > limit.per_customer_per_day:
            return "per_customer_per_day"
        if limit.per_day is not None and self.sum(day) + amount > limit.per_day:
            return "per_day"
        return None


async def run_steps(journal: SpendingJournal, limit: SpendingLimit, steps: list[Step]) -> None:
    """Run the steps, and compare each outcome with the model."""
    owner = JournalAccount("server", os.urandom(8).hex())
    model, spending = Model(limit), SpendingCheck(limit, owner.account, owner.account)
    for action, day, customer, amount in steps:
        if action == "buy":
            moment = datetime(2026, 11, 28 + day % 3, (day * 7) % 24, tzinfo=UTC)
            name = f"{owner.account}-{len(model.purchases)}"
            intent = purchase(name, amount, owner=owner, created_at=moment, external_customer_id=f"c-{customer}")
            refusing = model.refusing_limit(moment.date(), f"c-{customer}", amount)
            entry = {"id": name, "day": moment.date(), "customer": f"c-{customer}", "agreed": amount, "state": "open"}
            try:
                await journal.prepare(intent, spending=spending)
            except LimitExceeded as error:
                assert error.limit == refusing
                entry["state"] = "refused"
            else:
                assert refusing is None
            model.purchases.append({**entry, "ordered": Decimal(0)})
            continue
        known = [one for one in model.purchases if one["state"] != "refused"]
        if not known:
            continue
        chosen = known[day % len(known)]
        if action in {"confirm", "order"}:
            order = progress(str(amount)) if action == "order" else None
            await journal.settle(chosen["id"], CONFIRMED, order_id=1, progress=order)
            chosen["state"] = "confirmed"
            if order is not None:
                chosen["ordered"] = amount
        else:
            state = {"unknown": IntentState.UNKNOWN, "reject": IntentState.REJECTED}.get(
                action, IntentState.NOT_EXECUTED
            )
            await journal.settle(chosen["id"], state)
            if chosen["state"] == "open" and state is not IntentState.UNKNOWN:
                chosen["state"] = "closed"


LIMITS = st.builds(
    SpendingLimit,
    currency=st.just("AED"),
    per_purchase=st.one_of(st.none(), _AMOUNTS),
    per_customer_per_day=st.one_of(st.none(), _AMOUNTS),
    per_day=st.decimals(min_value=0, max_value=600, places=2),
)
STATEFUL = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@STATEFUL
@given(limit=LIMITS, steps=STEPS)
def test_random_purchases_equal_the_model(journal_location: str, limit: SpendingLimit, steps: list[Step]) -> None:
    async def run() -> None:
        journal = cast("SpendingJournal", open_journal(journal_location))
        await run_steps(journal, limit, steps)
        await journal.aclose()

    asyncio.run(run())
