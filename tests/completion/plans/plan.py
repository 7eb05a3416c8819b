"""The settings of a run, its plan of purchases, and the policies of its clients."""

from __future__ import annotations

import json
import random
import sys
from decimal import Decimal
from itertools import product
from typing import Any, Final, Literal, Self

import attrs

from minted_connect.config import CompletionPolicy, Options, Timeouts
from tests.completion.chaos.plan import SKUS
from tests.completion.chaos.witness import HEADER

CURRENCY: Final = "AED"
MAX_TOTAL: Final = Decimal(10_000_000)
LOCK_SECONDS: Final = 10.0
READS_LAG, ORDERS_LAG = 0.2, 0.3
"""Seconds; together less than `orders_lag` of the policy `known`."""
LATEST: Final = 1.2
"""Maximum delay of a request in seconds; less than `latest_landing` of the policy `known`."""
TIMEOUTS: Final = Timeouts(pool=2.0, connect=1.5, read=1.5, total=3.0, complete_read=2.0, complete_total=8.0)
CLAIM_SECONDS: Final = 3.0
PATIENCE: Final = {"known": 45.0, "default": 75.0}
"""Seconds without a new order after which a worker ends: longer than any wait of a policy for a proof."""


def write_line(value: Any) -> None:
    """Write a value as one line of JSON to stdout."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


@attrs.frozen
class Purchase:
    """One line of the plan."""

    customer: str
    reference: str
    items: dict[str, int]


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of a run; equal settings draw the same plan and the same moments of the kills."""

    journal: Literal["sqlite", "postgres"] = "sqlite"
    starts: int = 30
    customers: int = 200
    references: int = 1
    """Number of purchases of each customer."""
    processes: int = 4
    policy: Literal["known", "default"] = "known"
    reads_basket: Literal["arrival", "execution"] = "execution"
    """When a completion that is executed late reads the basket."""
    seed: int = 1

    @classmethod
    def loads(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def dumps(self) -> str:
        return json.dumps(attrs.asdict(self))

    def __str__(self) -> str:
        return f"{self.policy}, {self.journal}, {self.reads_basket}, seed {self.seed}"

    def random(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    def purchases(self) -> list[Purchase]:
        draw = self.random("purchases")
        plan: list[Purchase] = []
        for number, part in product(range(1, self.customers + 1), range(self.references)):
            customer = f"customer-{number}"
            # Other numbers of pieces for each reference of a customer, so that an order shows whose it is.
            items = {sku: draw.randint(1, 3) + 3 * part for sku in draw.sample(SKUS, draw.choice((1, 1, 2)))}
            plan.append(Purchase(customer, f"plan/2026-{11 + part}/{customer}", items))
        return plan

    @property
    def fences(self) -> bool:
        """Whether workers fence completions with an unknown outcome."""
        return self.policy == "known"

    def options(self) -> Options:
        known: dict[str, Any] = {
            "orders_lag": 1.0,
            "latest_landing": 2.0,
            "fence_proves_not_executed": True,
            "reconcile_budget": 15.0,
        }
        assumptions = known if self.policy == "known" else {"reconcile_budget": 2.0}
        return Options(
            completion=CompletionPolicy(claim_seconds=CLAIM_SECONDS, idempotency_header=HEADER, **assumptions)
        )
