"""Checks the limits of `Options.spending`: which purchases count for a day, and what they allow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal
from typing import Any, Final, Protocol, runtime_checkable

import attrs

from minted_connect.errors import ConfigurationError, JournalError, LimitExceeded
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, ReferenceKey
from minted_connect.journal.rows import ROW_ERRORS, load_progress
from minted_connect.models import Intent, OrderKind
from minted_connect.spending import SpendingLimit

__all__ = [
    "Purchase",
    "SpendingCheck",
    "SpendingJournal",
    "check_currency",
    "check_purchase",
    "check_spending",
    "check_spending_journal",
    "load_purchases",
    "spending_params",
]

_DAY: Final = timedelta(days=1)

# Independent of the caller's decimal context. Sums of more digits are rounded up, so that no limit is exceeded.
_SUMS: Final = Context(prec=100, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


@attrs.frozen
class SpendingCheck:
    """The limits that `prepare` checks, and the accounts whose purchases count."""

    limit: SpendingLimit
    account: str
    """The account of the client."""
    unnamed_account: str
    """The account of this user name and server without `Options.journal_account`; its intents count, too."""

    @property
    def accounts(self) -> frozenset[str]:
        """Both accounts, which are usually the same one."""
        return frozenset({self.account, self.unnamed_account})


@attrs.frozen
class Purchase:
    """An open or confirmed intent to buy, as far as it counts for the limits."""

    intent_id: str
    external_customer_id: str = attrs.field(repr=False)
    amount: Decimal
    currency_code: str


@runtime_checkable
class SpendingJournal(ClaimJournal, Protocol):
    """A `ClaimJournal` that also checks the limits of `Options.spending`."""

    async def prepare(
        self,
        intent: Intent,
        *,
        key: ReferenceKey | None = None,
        known: Collection[str] = (),
        claim: Claim | None = None,
        frees_customer: bool = False,
        spending: SpendingCheck | None = None,
    ) -> None:
        """Store an intent durably, as `ClaimJournal.prepare`, only if `check_spending` accepts it.

        The purchases of the day must be read in the transaction that stores the intent, and no other transaction may
        store an intent of the same account with limits in between. Those that count are the open and confirmed intents
        to buy of `SpendingCheck.accounts`, or without an account, with `created_at` on the same UTC day.

        Args:
            intent: The intent.
            key: As for `ClaimJournal.prepare`.
            known: As for `ClaimJournal.prepare`.
            claim: As for `ClaimJournal.prepare`.
            frees_customer: As for `ClaimJournal.prepare`.
            spending: The limits; None = no limits.

        Raises:
            LimitExceeded: from `check_spending`.
            ConfigurationError: from `check_spending`.
            AlreadyInFlight: as `ClaimJournal.prepare`.
            JournalError: as `Journal.prepare`.
        """
        ...


def check_spending_journal(limit: SpendingLimit | None, journal: Journal) -> None:
    """Check that a journal can check limits, if there are limits.

    Raises:
        ConfigurationError: if it cannot, or if it is lost when the process ends.
    """
    # All classes of journals have a method `prepare`: only its signature shows whether it checks limits.
    if limit is None or (
        isinstance(journal, ClaimJournal) and "spending" in inspect.signature(journal.prepare).parameters
    ):
        return
    if isinstance(journal, MemoryJournal):
        raise ConfigurationError(
            "Options.spending: needs a journal in a file or a database: the journal in memory forgets what was spent"
        )
    names = [name for name in dir(ClaimJournal) if not name.startswith("_") and not hasattr(journal, name)]
    missing = ", ".join([*names, "the argument spending of prepare"])
    raise ConfigurationError(
        f"Options.spending: the journal {type(journal).__name__} lacks {missing} (journal.spending.SpendingJournal)"
    )


def check_currency(limit: SpendingLimit, currency_code: str) -> None:
    """Check that a purchase is in the currency of the limits.

    Raises:
        ConfigurationError: if it is in another one.
    """
    if currency_code != limit.currency:
        raise ConfigurationError(
            f"Options.spending: the limits are in {limit.currency}, and this purchase is in {currency_code}: nothing "
            "was sent"
        )


def check_purchase(limit: SpendingLimit, amount: Decimal, currency_code: str) -> None:
    """Check one purchase by itself.

    Raises:
        LimitExceeded: if it exceeds `per_purchase`.
        ConfigurationError: if it is in another currency.
    """
    check_currency(limit, currency_code)
    if limit.per_purchase is not None and amount > limit.per_purchase:
        text = f"this purchase costs {amount} {limit.currency}, more than {limit.per_purchase}: nothing was sent"
        raise LimitExceeded(f"SpendingLimit.per_purchase: {text}", "per_purchase", limit.per_purchase, None, amount)


def check_spending(check: SpendingCheck, intent: Intent, purchases: Iterable[Purchase]) -> None:
    """Check that an intent may be stored.

    Args:
        check: The limits.
        intent: The intent to buy.
        purchases: The other purchases that count for the day of the intent.

    Raises:
        LimitExceeded: if the intent would exceed a limit.
        ConfigurationError: if the intent or one of the purchases is in another currency.
    """
    limit, customer = check.limit, intent.external_customer_id
    check_purchase(limit, intent.paid_total, intent.currency_code)
    by_all = by_customer = Decimal(0)
    for purchase in purchases:
        if purchase.currency_code != limit.currency:
            raise ConfigurationError(
                f"Options.spending: the limits are in {limit.currency}, and intent {purchase.intent_id} of the same "
                f"day is in {purchase.currency_code}, which cannot be added: nothing was sent"
            )
        by_all = _add(by_all, purchase.amount)
        if purchase.external_customer_id == customer:
            by_customer = _add(by_customer, purchase.amount)
    for name, maximum, spent, subject in (
        ("per_customer_per_day", limit.per_customer_per_day, by_customer, "this customer"),
        ("per_day", limit.per_day, by_all, "this account"),
    ):
        if maximum is not None and _add(spent, intent.paid_total) > maximum:
            text = (
                f"{subject} has spent {spent} of {maximum} {limit.currency} on {_utc_day(intent.created_at)} (UTC), "
                f"and this purchase would add {intent.paid_total}: nothing was sent"
            )
            raise LimitExceeded(f"SpendingLimit.{name}: {text}", name, maximum, spent, intent.paid_total)


def spending_params(check: SpendingCheck, intent: Intent) -> Mapping[str, Any]:
    """Return the parameters of `Statements.find_purchases`.

    The times are stored as text with any UTC offset: the query selects one day more at both ends, because the date in
    the text may be the one before or after that in UTC.
    """
    day = _utc_day(intent.created_at)
    return {
        "account": check.account,
        "unnamed": check.unnamed_account,
        "since": (day - _DAY).isoformat(),
        "until": (day + 2 * _DAY).isoformat(),
        "buy": str(OrderKind.BUY),
    }


def load_purchases(
    rows: Sequence[Sequence[Any]], intent: Intent, location: str, hashed: Callable[[str], str]
) -> list[Purchase]:
    """Return the purchases in the rows of `Statements.find_purchases` that count for the day of the intent.

    Args:
        rows: The rows.
        intent: The intent.
        location: The journal as shown in messages.
        hashed: Returns the hash of a name; purchases of the customer from before an erasure count as the customer's.

    Raises:
        JournalError: if a row cannot be read.
    """
    day, purchases = _utc_day(intent.created_at), list[Purchase]()
    unreadable, own = None, {intent.external_customer_id, hashed(intent.external_customer_id)}
    for intent_id, customer, paid_total, currency, created_at, progress in rows:
        with suppress(*ROW_ERRORS):
            if _utc_day(datetime.fromisoformat(created_at)) == day:
                amount = _amount(Decimal(paid_total), currency, progress)
                name = intent.external_customer_id if customer in own else customer
                purchases.append(Purchase(intent_id, name, amount, currency))
            continue
        unreadable = intent_id
    if unreadable is not None:
        # Outside the handler: the message of the original error may quote values of the row.
        raise JournalError(
            f"the journal {location} contains a record that cannot be read: intent {unreadable}. Nothing is bought "
            "under Options.spending until it is repaired"
        )
    return purchases


def _amount(paid_total: Decimal, currency: str, progress: str | None) -> Decimal:
    order = load_progress(progress)
    amounts = [paid_total, Decimal(0)]
    if order is not None and order.paid_total is not None and order.currency_code == currency:
        amounts.append(order.paid_total)
    if not all(amount.is_finite() for amount in amounts):
        raise ValueError("paid_total")
    return max(amounts)


def _add(first: Decimal, second: Decimal) -> Decimal:
    return _SUMS.add(first, second)


def _utc_day(time: datetime) -> date:
    if time.tzinfo is None:
        raise ValueError("a time without a time zone")
    return time.astimezone(UTC).date()
