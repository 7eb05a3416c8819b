"""Builds ticks for tests that need no feed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.feed import Tick
from minted_connect.models.rate import Rate
from minted_connect.sandbox import ManualClock

GOLD = Rate(
    currency_id=1000013,
    currency_name="Dirham Gold",
    metal_type="gold",
    spot_price=Decimal("586.480"),
    buy_price=Decimal("592.34"),
    sell_price=Decimal("580.62"),
    currency_code="AED",
    updated_at=datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC),
    product_id=3000099,
    sku="MNTBAE0001",
)
SILVER = attrs.evolve(GOLD, currency_id=1000019, currency_name="Dirham Silver", metal_type="silver", sku=None)
BEGUN = datetime(2026, 2, 20, 12, tzinfo=UTC)
CLOCK = ManualClock()


def tick(seconds: int, rate: Rate = GOLD, **more: Any) -> Tick:
    """Return the tick of a poll `seconds` after noon; `number` defaults to `seconds`."""
    at = BEGUN + timedelta(seconds=seconds)
    return Tick(rate, float(seconds), at, **{"number": seconds, "clock": CLOCK, **more})
