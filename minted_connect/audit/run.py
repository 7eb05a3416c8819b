"""Reads the orders and the journals of an account, and compares them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from minted_connect import validation
from minted_connect.audit.comparison import Comparison
from minted_connect.audit.period import Period
from minted_connect.audit.report import AuditReport, FindingKind, Unread
from minted_connect.audit.rows import OrderIndex, read_orders
from minted_connect.audit.wallets import WalletSnapshot, compare_wallets, read_wallets
from minted_connect.client import AsyncMintedConnect
from minted_connect.config import STAGING, Options, Timeouts
from minted_connect.errors import ConfigurationError, JournalError
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.listing import ForgettingJournal, IntentFilter, as_listable, iterate_pages
from minted_connect.journal.protocol import Journal
from minted_connect.secret import Secret

__all__ = ["Location", "audit", "check_file"]

_KINDS: Final = list(FindingKind)
_TOO_RECENT: Final = "the wallet of a customer: its last purchase may not be listed yet"

_FORGOTTEN: Final = "complete.forget has removed purchases of that time, which may have been those of the orders"

Location = Journal | str | Path | Secret


async def audit(
    settings: Mapping[str, Any],
    *,
    start: date,
    end: date | None = None,
    journals: Sequence[Location] | None = None,
    customer_id: str | None = None,
    takes_snapshot: bool = False,
    since: WalletSnapshot | None = None,
) -> AuditReport:
    """Compare journals with the orders of the account. Reads only: neither a journal nor an order is changed.

    Args:
        settings: Arguments of `AsyncMintedConnect`.
        start: First day, UTC.
        end: Last day, UTC; default: `start`.
        journals: All journals that the account's purchases are written to: files, URLs of databases, or `Journal`
            objects. Default: the journal of `settings`. None is created: one that does not exist is reported as unread.
        customer_id: Only orders and intents of this customer.
        takes_snapshot: Read the wallets of the customers of these days (`AuditReport.snapshot`). Three requests for
            each customer, or more.
        since: An earlier snapshot: changes of wallets that the orders since then do not explain are findings. Customers
            that it does not contain are not compared.

    Raises:
        ConfigurationError: if the settings are invalid, if no journal is given, if one cannot list its intents, or if
            `since` is a snapshot of another account.
        InvalidInput: if a day or the customer id is invalid.
    """
    end = start if end is None else end
    validation.date_range(start, end)
    filters = {} if customer_id is None else {"customer_id": validation.customer_id(customer_id)}
    if journals is None:
        journals = [] if settings.get("journal") is None else [settings["journal"]]
    if not journals:
        raise ConfigurationError("journals: give at least one journal, else every order would have no intent")
    period = Period(start, end)
    options: Options = settings.get("options") or Options()
    timeouts: Timeouts = settings.get("timeouts") or Timeouts()
    policy = options.completion
    lag = timedelta(seconds=timeouts.complete_total + policy.settle_time)
    arguments: dict[str, Any] = {**settings, "journal": None}
    async with AsyncMintedConnect(**arguments) as minted:
        accounts = _accounts(settings, options)
        earlier = _customers(since, accounts[0], customer_id)
        recent_since = options.clock.wall() - lag
        orders = await read_orders(minted, start=period.first_read, end=period.last_read, **filters)
        unread = [*orders.unread]
        index = OrderIndex(orders.rows, keeps_number=policy.order_keeps_number)
        comparison = Comparison(period, index, frozenset({None, *accounts}), recent_since)
        names: list[str] = []
        for journal in journals:
            name, reasons = await _read_journal(journal, comparison, customer_id)
            names.append(name)
            unread += [Unread(name, problem) for problem in reasons]
        for customer, intents in comparison.missing().items():
            # The basket may be older than the days that were read, and rows may have moved to other pages.
            own = orders if orders.has_failed else await read_orders(minted, customer_id=customer)
            unread += own.unread
            own_index = OrderIndex(own.rows, keeps_number=policy.order_keeps_number)
            comparison.add_orders(own_index, intents, is_complete=not own.unread)
        for name, numbers in comparison.forgotten().items():
            unread.append(Unread(name, f"{_FORGOTTEN} {', '.join(map(str, numbers))}"))
        findings = [*comparison.findings()]
        snapshot: WalletSnapshot | None = None
        if (takes_snapshot or since is not None) and not orders.has_failed:
            recent = comparison.recent_customers
            unread += [Unread("wallets", _TOO_RECENT, customer) for customer in sorted(recent)]
            customers = (comparison.customers | earlier) - recent
            snapshot, unread_wallets = await read_wallets(minted, customers, options.clock.wall(), accounts[0])
            unread += unread_wallets
            findings += [] if since is None else compare_wallets(since, snapshot)
    findings.sort(key=lambda one: (_KINDS.index(one.kind), one.order_ids, one.intent_ids))
    return AuditReport(
        start,
        end,
        tuple(findings),
        tuple(dict.fromkeys(unread)),
        tuple(names),
        comparison.orders,
        comparison.intents,
        comparison.matched,
        comparison.recent,
        comparison.other_accounts,
        0 if since is None or snapshot is None else len(since.wallets.keys() & snapshot.wallets.keys()),
        snapshot,
    )


def _accounts(settings: Mapping[str, Any], options: Options) -> list[str]:
    """Return the accounts whose intents are those of the client: as named, and as without a name."""
    server, username = settings.get("base_url", STAGING), settings["username"]
    return [account_of_user(server, username, name).account for name in (options.journal_account, None)]


def _customers(since: WalletSnapshot | None, account: str, customer_id: str | None) -> set[str]:
    """Return the customers of an earlier snapshot.

    Raises:
        ConfigurationError: if it is one of another account.
    """
    if since is None:
        return set()
    if since.account != account:
        raise ConfigurationError("snapshot: belongs to another server, user name or journal_account")
    return {customer for customer in since.wallets if customer_id in {None, customer}}


async def _read_journal(
    location: Location, comparison: Comparison, customer_id: str | None
) -> tuple[str, Sequence[str]]:
    """Add the intents of a journal to a comparison; return its name, and the reasons why some could not be read."""
    if isinstance(location, str | Path) and "://" not in str(location) and (problem := check_file(location)):
        return str(location), [problem]
    journal = open_journal(location, read_only=True)
    name = str(getattr(journal, "location", type(journal).__name__))
    path = getattr(journal, "path", None)
    if isinstance(path, Path) and (problem := check_file(path)):
        return name, [problem]
    filters, unreadable = IntentFilter(external_customer_id=customer_id), list[str]()
    try:
        async with aclosing(iterate_pages(as_listable("audit", journal), filters)) as pages:
            async for page in pages:
                comparison.add(page.items)
                unreadable += page.unreadable
        before = await journal.find_forgotten() if isinstance(journal, ForgettingJournal) else None
        if before is not None:
            comparison.add_forgotten(name, before)
    except JournalError as error:
        return name, [str(error)]
    finally:
        if journal is not location:
            await journal.aclose()
    return name, [f"its record of intent {intent_id} cannot be read" for intent_id in unreadable]


def check_file(path: str | Path) -> str | None:
    """Return why a file is not a journal that can be read, or None. An empty file is one that a purchase left."""
    try:
        status = os.stat(path)  # noqa: PTH116 - `Path.stat` is the same, and the path may be a string
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    return None if status.st_size else "the file is empty"
