"""The settings of a simulated day: its purchases, the limits of spending, and the policies of the clients."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Self

import attrs

from minted_connect.config import CompletionPolicy, Options, SpendingLimit, Timeouts
from minted_connect.journal import open_journal, sqlite
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.journal.sqlite import SqliteJournal
from tests.completion.chaos.plan import SKUS
from tests.completion.chaos.witness import HEADER
from tests.completion.day.clock import FollowingClock, counting_calls

START: Final = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""The simulated day begins at noon, so that midnight passes while purchases run."""
DAY: Final = 86_400.0
CURRENCY: Final = "AED"
MAX_TOTAL: Final = Decimal(10_000_000)
READS_LAG, ORDERS_LAG = 2.0, 4.0
"""Seconds by which reads are stale; together less than `orders_lag` of the clients."""
TIMEOUTS: Final = Timeouts()
POLICY: Final = CompletionPolicy(
    orders_lag=8.0,
    latest_landing=5.0,
    fence_proves_not_executed=True,
    reconcile_budget=60.0,
    claim_seconds=120.0,
    idempotency_header=HEADER,
)
_BURST: Final = 900.0
"""Seconds between two moments at which many purchases begin."""
_SPREAD: Final = 20.0
"""Seconds over which the purchases of one moment are spread."""
_LATEST_START: Final = DAY - 3600.0
_PER_CUSTOMER: Final = 12
"""Number of purchases of each customer, on average."""
_REPEATED: Final = 0.05
"""Share of the references that two processes buy."""


@attrs.frozen
class Purchase:
    """One purchase of the day."""

    at: float
    """Seconds after the start of the day."""
    customer: str
    reference: str
    items: dict[str, int]


@attrs.frozen
class Caps:
    """The limits of the day."""

    per_purchase: Decimal
    per_customer_per_day: Decimal
    per_day: Decimal

    @property
    def limit(self) -> SpendingLimit:
        """The limits, as an option of a client."""
        return SpendingLimit(currency=CURRENCY, **attrs.asdict(self))


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of a day; equal settings draw the same purchases."""

    journal: Literal["sqlite", "postgres"] = "sqlite"
    purchases: int = 2000
    processes: int = 3
    kills: int = 4
    """Number of reconcilers that are killed and replaced."""
    seed: int = 1

    def random(self, name: str) -> random.Random:
        """Return the random numbers for one purpose."""
        return random.Random(f"{self.seed}/{name}")

    @property
    def customers(self) -> list[str]:
        """Ids of the customers."""
        return [f"customer-{number}" for number in range(max(self.purchases // _PER_CUSTOMER, 3))]

    def plan(self) -> list[Purchase]:
        """Return the purchases, by time."""
        draw, bursts = self.random("plan"), int(_LATEST_START // _BURST)
        bursts = min(bursts, max(self.purchases // 8, 2))
        found: list[Purchase] = []
        for number in range(self.purchases):
            at = draw.randrange(bursts) * _LATEST_START / bursts + draw.uniform(0.0, _SPREAD)
            items = {sku: draw.choice((1, 1, 1, 2, 3)) for sku in draw.sample(SKUS, draw.choice((1, 1, 2)))}
            found.append(Purchase(at, draw.choice(self.customers), f"day/{number:05}", items))
        return sorted(found, key=lambda one: one.at)

    def parts(self) -> list[list[Purchase]]:
        """Return the purchases of each process; some references belong to two processes."""
        draw, parts = self.random("parts"), list[list[Purchase]]()
        parts.extend([] for _ in range(self.processes))
        for purchase in self.plan():
            copies = 2 if self.processes > 1 and draw.random() < _REPEATED else 1
            for part in draw.sample(parts, copies):
                part.append(purchase)
        return parts

    def caps(self, prices: Mapping[str, Decimal]) -> Caps:
        """Return limits that some of the purchases exceed, for these prices of one piece."""
        amounts = [sum((prices[sku] * pieces for sku, pieces in one.items.items()), Decimal(0)) for one in self.plan()]
        wanted, accepted = dict[tuple[str, date], Decimal](), dict[tuple[str, date], Decimal]()
        per_purchase = sorted(amounts)[int(len(amounts) * 0.98)]
        keys = [(one.customer, (START + timedelta(seconds=one.at)).date()) for one in self.plan()]
        for key, amount in zip(keys, amounts, strict=True):
            wanted[key] = wanted.get(key, Decimal(0)) + amount
        per_customer = max(sorted(wanted.values())[len(wanted) // 2], per_purchase)
        by_day = dict.fromkeys((day for _, day in keys), Decimal(0))
        for key, amount in zip(keys, amounts, strict=True):
            if amount <= per_purchase and accepted.get(key, Decimal(0)) + amount <= per_customer:
                accepted[key] = accepted.get(key, Decimal(0)) + amount
                by_day[key[1]] += amount
        per_day = min(by_day.values()) * Decimal("0.85")
        return Caps(*(amount.quantize(Decimal("0.01")) for amount in (per_purchase, per_customer, per_day)))


@attrs.frozen
class Job:
    """The arguments of one process, which its command line contains as text."""

    settings: Settings
    name: str
    slot: int
    shared: str
    """File of the shared clock."""
    url: str
    username: str
    password: str = attrs.field(repr=False)
    journal: str = attrs.field(repr=False)
    caps: Caps | None = None
    part: int = 0

    @property
    def shared_path(self) -> Path:
        """File of the shared clock."""
        return Path(self.shared)

    @classmethod
    def loads(cls, text: str) -> Self:
        """Read the text of `dumps`."""
        data: dict[str, Any] = json.loads(text)
        caps = data.pop("caps")
        loaded = None if caps is None else Caps(**{name: Decimal(amount) for name, amount in caps.items()})
        return cls(settings=Settings(**data.pop("settings")), caps=loaded, **data)

    def dumps(self) -> str:
        """Return the job as text."""
        return json.dumps(attrs.asdict(self), default=str)

    def client_settings(self, clock: FollowingClock, journal: SqliteJournal | PostgresJournal) -> dict[str, Any]:
        """Return the arguments of a client that uses the clock and the journal."""
        spending = None if self.caps is None else self.caps.limit
        return {
            "username": self.username,
            "password": self.password,
            "base_url": self.url,
            "journal": counting_calls(journal),
            "options": Options(clock=clock, completion=POLICY, spending=spending),
            "timeouts": TIMEOUTS,
        }

    def open_journal(self, clock: FollowingClock) -> SqliteJournal | PostgresJournal:
        """Return the journal, whose claims expire by the shared clock.

        A PostgreSQL journal has the clock in its database (`simulated_clock` in `run`).
        """
        journal = open_journal(self.journal)
        assert isinstance(journal, SqliteJournal | PostgresJournal)
        if isinstance(journal, SqliteJournal):
            follow_boot_clock(clock)
        return journal


def follow_boot_clock(clock: FollowingClock) -> None:
    """Make the claims of the SQLite journals of this process expire by a simulated clock."""

    def read() -> Mapping[str, Any]:
        return {"elapsed": clock.monotonic(), "boot_id": "simulated"}

    sqlite.__dict__["boot_clock_params"] = read
