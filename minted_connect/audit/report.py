"""Results of an audit, and their JSON form."""

from __future__ import annotations

import enum
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import attrs

from minted_connect.models.masking import masked_except_last

if TYPE_CHECKING:
    from minted_connect.audit.wallets import WalletSnapshot

__all__ = ["CLEAN", "NOT_READ", "WITH_FINDINGS", "AuditReport", "Finding", "FindingKind", "Unread", "as_json"]

CLEAN: Final = 0
WITH_FINDINGS: Final = 3
NOT_READ: Final = 4
"""Exit codes of `minted audit`."""


class FindingKind(enum.StrEnum):
    """Kinds of findings, most urgent first."""

    ORDERS_REPEATED = "orders_repeated"
    """Several orders have the keys of one intent."""
    REFERENCE_REPEATED = "reference_repeated"
    """Several intents with one reference are confirmed, in one journal or in several."""
    ORDER_WITHOUT_INTENT = "order_without_intent"
    """No journal has an intent of this account for an order."""
    INTENT_WITHOUT_ORDER = "intent_without_order"
    """An intent is confirmed, and its order is not listed."""
    OUTCOME_DIFFERS = "outcome_differs"
    """An intent is settled as not bought, and its order exists and has not failed."""
    ORDER_FAILED = "order_failed"
    """An intent is confirmed, and its order was cancelled, refused or refunded."""
    OPEN_INTENT = "open_intent"
    """The outcome of an intent is not known (prepared, unknown): it is in flight, or must be reconciled."""
    INTENTS_REPEATED = "intents_repeated"
    """Several confirmed intents have one order."""
    WALLET_DIFFERS = "wallet_differs"
    """The orders since an earlier snapshot do not explain the wallet of a customer."""
    TOTAL_DIFFERS = "total_differs"
    """The `paid_total` of an order is not the agreed one."""
    CURRENCY_DIFFERS = "currency_differs"
    """The currency of an order is not the agreed one."""
    PIECES_DIFFER = "pieces_differ"
    """An order has other items or other numbers of pieces than agreed."""
    KIND_DIFFERS = "kind_differs"
    """An order is of another kind than agreed: buy, sell or delivery."""


@attrs.frozen
class Finding:
    """One difference between the journals and the orders."""

    kind: FindingKind
    text: str
    """The difference in words, without personal data."""
    intent_ids: tuple[str, ...] = ()
    order_ids: tuple[int, ...] = ()
    customer_id: str | None = attrs.field(default=None, repr=masked_except_last)
    """External id of the customer."""


@attrs.frozen
class Unread:
    """Part of a journal, of the orders or of the wallets that could not be read.

    Because of it, findings may be missing or wrong.
    """

    source: str
    """The journal, without secrets, or `orders` or `wallets`."""
    problem: str
    """The reason, without personal data."""
    customer_id: str | None = attrs.field(default=None, repr=masked_except_last)
    """External id of the customer, of `wallets`."""


@attrs.frozen
class AuditReport:
    """Result of an audit."""

    start: date
    """First day, UTC."""
    end: date
    """Last day, UTC."""
    findings: tuple[Finding, ...] = ()
    unread: tuple[Unread, ...] = ()
    journals: tuple[str, ...] = ()
    """The journals, without secrets."""
    orders: int = 0
    """Number of orders of these days."""
    intents: int = 0
    """Number of intents of these days and this account, in any state."""
    matched: int = 0
    """Number of confirmed intents of these days whose order was found."""
    recent: int = 0
    """Number of confirmed intents whose order may not be listed yet."""
    other_accounts: int = 0
    """Number of intents of these days that belong to other accounts."""
    wallets: int = 0
    """Number of wallets that were compared with those of the earlier snapshot."""
    snapshot: WalletSnapshot | None = None
    """The wallets of the customers of these days and of the earlier snapshot, if they were read."""

    @property
    def is_complete(self) -> bool:
        """Whether everything could be read."""
        return not self.unread

    @property
    def is_clean(self) -> bool:
        """Whether everything could be read, and nothing was found."""
        return self.is_complete and not self.findings

    @property
    def counts(self) -> Counter[FindingKind]:
        """Number of findings by kind."""
        return Counter(finding.kind for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """Exit code of `minted audit`: 4 if something could not be read, else 3 with findings, else 0."""
        if not self.is_complete:
            return NOT_READ
        return WITH_FINDINGS if self.findings else CLEAN


def as_json(report: AuditReport) -> dict[str, Any]:
    """Return a report as JSON-ready data, with the ids of the customers."""
    return {
        "start": report.start.isoformat(),
        "end": report.end.isoformat(),
        "findings": [
            {
                "kind": str(finding.kind),
                "text": finding.text,
                "intent_ids": list(finding.intent_ids),
                "order_ids": list(finding.order_ids),
                "customer_id": finding.customer_id,
            }
            for finding in report.findings
        ],
        "unread": [attrs.asdict(unread) for unread in report.unread],
        "journals": list(report.journals),
        "orders": report.orders,
        "intents": report.intents,
        "matched": report.matched,
        "recent": report.recent,
        "other_accounts": report.other_accounts,
        "wallets": report.wallets,
        "is_clean": report.is_clean,
    }
