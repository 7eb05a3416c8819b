"""The figures of a run, and the violations that it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import attrs

from minted_connect.journal.protocol import OPEN
from minted_connect.models import Intent, IntentState
from tests.completion.plans.plan import Purchase, Settings


@attrs.define
class Result:
    """The figures of a run, and the violations that it found."""

    settings: Settings
    orders: int = 0
    confirmed: int = 0
    """Number of references that are confirmed."""
    open: int = 0
    processes: int = 0
    killed: int = 0
    requests: int = 0
    completions: int = 0
    seconds: float = 0.0
    orders_by_start: list[int] = attrs.field(factory=list[int])
    """Number of orders after each start."""
    faults: Counter[str] = attrs.field(factory=Counter[str])
    intents: Counter[str] = attrs.field(factory=Counter[str])
    """Number of intents by state."""
    violations: list[str] = attrs.field(factory=list[str])

    def check_orders(self, orders: Sequence[dict[str, Any]]) -> None:
        """Report the orders that no purchase of the plan can have made."""
        planned = [(purchase.customer, purchase.items) for purchase in self.settings.purchases()]
        for order in orders:
            if (order["customer"], order["items"]) not in planned:
                self.violations.append(f"an order of other items than planned: {order}")

    def check(
        self,
        purchase: Purchase,
        orders: Sequence[dict[str, Any]],
        intents: Sequence[Intent],
        outcomes: Collection[int | str | None],
        *,
        is_pending: bool,
    ) -> None:
        """Compare the orders of one purchase with its intents, and with its outcomes in the last start.

        Args:
            purchase: The purchase.
            orders: The customer's orders of the same items.
            intents: The intents with the reference of the purchase.
            outcomes: The last outcome of each process.
            is_pending: Whether `complete.pending()` lists an intent with the reference.
        """
        self.intents.update(str(intent.state) for intent in intents)
        confirmed = [intent for intent in intents if intent.state == IntentState.CONFIRMED]
        self.confirmed += bool(confirmed)
        self.open += is_pending
        numbers = [order["id"] for order in orders]
        if len(orders) > 1:
            self._report(purchase, f"{len(orders)} orders: {numbers}")
        if any(intent.order_id not in {None, *numbers} for intent in confirmed) or (confirmed and not numbers):
            self._report(purchase, f"confirmed as {[intent.order_id for intent in confirmed]}, ordered {numbers}")
        if len(confirmed) > 1:
            self._report(purchase, f"confirmed by {len(confirmed)} intents: {[intent.id for intent in confirmed]}")
        if confirmed and any(intent.state in OPEN for intent in intents):
            self._report(purchase, "confirmed, and open too")
        if not confirmed and not is_pending:
            self._report(purchase, f"neither confirmed nor open; orders {numbers}, outcomes {set(outcomes)}")
        if self.settings.policy == "known" and set(outcomes) != set(numbers):
            self._report(purchase, f"outcomes {set(outcomes)}, orders {numbers}, open: {is_pending}")
        if any(isinstance(outcome, int) and outcome not in numbers for outcome in outcomes):
            self._report(purchase, f"outcomes {set(outcomes)}, orders {numbers}")

    def _report(self, purchase: Purchase, text: str) -> None:
        self.violations.append(f"{purchase.reference}: {text}")

    def __str__(self) -> str:
        figures = [
            f"{self.settings.customers} customers",
            f"{self.orders} orders ({self.confirmed} confirmed, {self.open} open)",
            f"{self.settings.starts} starts, {self.processes} processes, {self.killed} killed",
            f"{self.requests} requests, {self.completions} completions, {self.faults.total()} faults",
            f"intents: {', '.join(f'{count} {state}' for state, count in self.intents.most_common())}",
            f"orders by start: {' '.join(map(str, self.orders_by_start))}",
            f"{self.seconds:.0f} s",
            f"{len(self.violations)} violations",
        ]
        return f"{self.settings}: {'; '.join(figures)}"
