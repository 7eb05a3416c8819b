"""The figures of a simulated day, and the violations that it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

import attrs

from minted_connect.audit import AuditReport
from minted_connect.sandbox.shop import Shop
from tests.completion.chaos.witness import RequestObserver
from tests.completion.day.databases import StoredIntent
from tests.completion.day.plan import Caps, Settings
from tests.completion.day.planted import Planted, planted

_LARGE: Final = 500
"""Number of purchases from which on every limit must be reached."""
LIMITS: Final = ("per_purchase", "per_customer_per_day", "per_day")


@attrs.define
class Result:
    """The figures of a day, and the violations that it found."""

    settings: Settings
    orders: int = 0
    intents: Counter[str] = attrs.field(factory=Counter[str])
    """Number of intents by state."""
    limits: Counter[str] = attrs.field(factory=Counter[str])
    """Number of purchases that ended at each limit."""
    errors: Counter[str] = attrs.field(factory=Counter[str])
    """Number of calls that failed, by error, and of those that returned an earlier completion."""
    faults: Counter[str] = attrs.field(factory=Counter[str])
    posts: int = 0
    requests: int = 0
    kills: int = 0
    """Number of reconcilers that were killed while they settled intents."""
    reconciled: int = 0
    """Number of intents that a reconciler has settled."""
    findings: int = 0
    """Number of planted discrepancies that the audit has named."""
    simulated: float = 0.0
    seconds: float = 0.0
    violations: list[str] = attrs.field(factory=list[str])

    def check_outcomes(self, outputs: Sequence[dict[str, Any]]) -> None:
        """Check that every purchase has an outcome, and the same one in all processes, except for limits."""
        outcomes: dict[str, list[int | str | None]] = {}
        for output in outputs:
            self.errors.update(output["errors"])
            for reference, outcome in output["outcomes"].items():
                outcomes.setdefault(reference, []).append(outcome)
        planned = {purchase.reference for purchase in self.settings.plan()}
        self._check(outcomes.keys() == planned, f"{len(planned - outcomes.keys())} purchases have no outcome")
        for reference, found in outcomes.items():
            numbers = {outcome for outcome in found if isinstance(outcome, int)}
            others = [outcome for outcome in found if not isinstance(outcome, int) and outcome not in LIMITS]
            self._check(not others, f"{reference} ended with {others}")
            self._check(len(numbers) <= 1, f"{reference} has the orders {sorted(numbers)}")
            if not numbers:
                self.limits[str(found[-1])] += 1
        # On a small day, the limit of the account may be reached before that of any customer.
        reached = {*LIMITS} if self.settings.purchases >= _LARGE else {"per_day"}
        self._check(reached <= self.limits.keys(), f"limits that were reached: {sorted(self.limits)}")

    def check_orders(
        self,
        shop: Shop,
        observer: RequestObserver,
        intents: Sequence[StoredIntent],
        caps: Caps | None,
        *,
        requests: int,
    ) -> None:
        """Check orders against intents, references and limits, without the code of the audit."""
        assert caps is not None
        orders = {order.id: order for order in shop.orders}
        self.orders, self.requests, self.posts = len(orders), requests, observer.total_posts
        self.intents = Counter(intent.state for intent in intents)
        confirmed = [intent for intent in intents if intent.state == "confirmed"]
        self._check(not observer.posted_twice(), f"posted twice: {observer.posted_twice()}")
        numbers = Counter(intent.order_id for intent in confirmed)
        self._check(numbers == Counter(orders.keys()), f"{len(orders)} orders, {len(confirmed)} confirmed intents")
        references = Counter(intent.reference for intent in confirmed)
        self._check(max(references.values(), default=0) == 1, f"bought twice: {references.most_common(3)}")
        self._check(not any(intent.is_open for intent in intents), f"open intents: {self.intents}")
        by_day, by_customer = dict[date, Decimal](), dict[tuple[date, str], Decimal]()
        for intent in confirmed:
            order = orders.get(intent.order_id or 0)
            ordered = Decimal(0) if order is None else order.figures.paid_total
            self._check(order is None or order.external_customer_id == intent.customer, f"{intent.id}: customer")
            amount = max(intent.paid_total, ordered)
            self._check(amount <= caps.per_purchase, f"intent {intent.id} has {amount}")
            by_day[intent.day] = by_day.get(intent.day, Decimal(0)) + amount
            key = (intent.day, intent.customer)
            by_customer[key] = by_customer.get(key, Decimal(0)) + amount
        for day, amount in by_day.items():
            self._check(amount <= caps.per_day, f"{day}: {amount} of {caps.per_day}")
        for (day, customer), amount in by_customer.items():
            maximum = caps.per_customer_per_day
            self._check(amount <= maximum, f"{day}, {customer}: {amount} of {maximum}")
        self._check(self.kills or not self.settings.kills, "no reconciler was killed")
        self._check(len(by_day) > 1, "midnight did not pass while purchases ran")

    def check_clean(self, report: AuditReport) -> None:
        """Check that an audit found nothing, and compared everything."""
        self.violations += [f"audit: {finding.kind}: {finding.text}" for finding in report.findings]
        self.violations += [f"audit: {unread}" for unread in report.unread]
        self._check(report.exit_code == 0, f"the exit code of the audit is {report.exit_code}")
        figures = (report.orders, report.matched, report.intents)
        expected = (self.orders, self.orders, self.intents.total())
        self._check(figures == expected, f"the audit compared {figures}, expected {expected}")
        self._check(report.recent == 0, f"{report.recent} intents are recent")

    def check_planted(self, report: AuditReport, expected: Sequence[Planted]) -> None:
        """Check that an audit found the planted discrepancies, and nothing else."""
        found = Counter(map(planted, report.findings))
        self.findings = sum((found & Counter(expected)).values())
        for kind, intents, orders in (Counter(expected) - found).elements():
            self.violations.append(f"not found: {kind} of intents {sorted(intents)}, orders {sorted(orders)}")
        for kind, intents, orders in (found - Counter(expected)).elements():
            self.violations.append(f"found: {kind} of intents {sorted(intents)}, orders {sorted(orders)}")
        self.violations += [f"audit: {unread}" for unread in report.unread]
        self._check(report.exit_code == 3, f"the exit code with discrepancies is {report.exit_code}")

    def _check(self, condition: object, text: str) -> None:
        if not condition:
            self.violations.append(text)

    def __str__(self) -> str:
        limits = ", ".join(f"{self.limits[name]} {name}" for name in LIMITS)
        figures = [
            f"{self.settings.purchases} purchases in {self.settings.processes} processes",
            f"{self.orders} orders",
            f"{self.limits.total()} ended at limits ({limits})",
            f"{self.faults.total()} faults of {len(self.faults)} kinds",
            f"{self.posts} completions in {self.requests} requests",
            f"intents: {', '.join(f'{count} {state}' for state, count in self.intents.most_common())}",
            f"{self.errors['OutcomeUnknown']} unknown outcomes, {self.reconciled} intents reconciled",
            f"{self.kills} reconcilers killed",
            f"{self.findings} planted discrepancies found",
            f"{self.simulated / 3600:.1f} simulated hours in {self.seconds:.0f} s",
            f"{len(self.violations)} violations",
        ]
        return f"{self.settings.journal}, seed {self.settings.seed}: {'; '.join(figures)}"
