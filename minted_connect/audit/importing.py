"""Takes over the orders since a backup into the journal that was restored from it. Used by `minted audit --import`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import attrs

from minted_connect import validation
from minted_connect.audit.report import CLEAN, NOT_READ, WITH_FINDINGS, Unread
from minted_connect.audit.rows import OrderIndex, OrderRow, read_orders
from minted_connect.audit.run import Location, check_file
from minted_connect.client import AsyncMintedConnect
from minted_connect.clock import sleep_until
from minted_connect.completion.assignment import assign_reference
from minted_connect.config import STAGING, Options
from minted_connect.errors import ConfigurationError, InvalidInput
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.listing import IntentFilter, as_listable, iterate_pages
from minted_connect.journal.protocol import Journal, JournalAccount
from minted_connect.journal.restoring import ImportCount, OrderImport, RestorableJournal, as_restorable
from minted_connect.models import Intent, IntentState, Order, OrderProgress

__all__ = ["ImportReport", "KnownReference", "import_orders"]

_PER_TRANSACTION: Final = 50
_DAYS_BEFORE: Final = timedelta(days=2)
"""From the mark back to the first day that is read: a full day before the mark, in the vendor's time zone, too."""
_DAY: Final = timedelta(days=1)


@attrs.frozen
class KnownReference:
    """The reference of an order, from another source than the journal."""

    reference: str = attrs.field(repr=False)
    customer_id: str = attrs.field(repr=False)
    order_id: int


@attrs.frozen
class ImportReport:
    """Result of an import."""

    journal: str
    """The journal, without secrets."""
    restored_from: datetime
    """Time of the backup."""
    start: date
    """First day whose orders were read."""
    end: date
    """Last day whose orders were read."""
    counts: ImportCount = attrs.field(factory=ImportCount)
    assigned: int = 0
    """Number of imported intents that were assigned to known references by this import."""
    problems: tuple[str, ...] = ()
    """Known references that could not be assigned, without personal data."""
    unassigned: tuple[Intent, ...] = ()
    """The imported intents of the account that block references until they are assigned."""
    unread: tuple[Unread, ...] = ()
    """Orders that could not be read, and failed requests: then nothing was stored, and the mark stays."""

    @property
    def is_complete(self) -> bool:
        """Whether all orders were taken over, and the mark is removed."""
        return not self.unread

    @property
    def exit_code(self) -> int:
        """Exit code of `minted audit --import`: 4 if it is not complete, else 3 with problems, else 0."""
        if not self.is_complete:
            return NOT_READ
        return WITH_FINDINGS if self.problems else CLEAN


async def import_orders(
    settings: Mapping[str, Any],
    *,
    journal: Location | None = None,
    start: date | None = None,
    wait: float | None = None,
    references: Sequence[KnownReference] = (),
) -> ImportReport:
    """Take over the orders since a backup into the journal that was restored from it, and remove its mark.

    An order without an intent gets one: confirmed, or rejected if the order has failed. An intent that is not confirmed
    is confirmed if an order has its keys. Running it again, also after it was killed, stores nothing twice. Stop all
    processes that used the lost journal before.

    An order is dated by its basket. If baskets stay open for longer than a day before they are bought, give an earlier
    `start`.

    Args:
        settings: Arguments of `AsyncMintedConnect`.
        journal: The restored journal: a file, the URL of a database, or a `Journal`. Default: the one of `settings`.
        start: First day to read, UTC. Default: two days before the backup. It cannot be later.
        wait: Seconds to wait before the orders are read, so that purchases of processes that ended just now are
            listed. Default: `CompletionPolicy.settle_time`.
        references: References of orders, which are assigned to the imported intents of these orders.

    Raises:
        ConfigurationError: if the settings are invalid, if the journal does not exist, is not marked or cannot be
            marked.
        InvalidInput: if an argument is invalid.
        JournalError: if the journal cannot be read or written. The mark stays.
    """
    location = settings.get("journal") if journal is None else journal
    if location is None:
        raise ConfigurationError("journal: give the journal that was restored")
    options: Options = settings.get("options") or Options()
    wait = options.completion.settle_time if wait is None else validation.seconds_or_zero("wait", wait)
    if isinstance(location, str | Path) and "://" not in str(location) and (problem := check_file(location)):
        raise ConfigurationError(f"journal: {location}: {problem}")
    opened = open_journal(location)
    try:
        importer = _Importer(settings, options, opened)
        return await importer.run(start, wait, references)
    finally:
        if opened is not location:
            await opened.aclose()


class _Importer:
    def __init__(self, settings: Mapping[str, Any], options: Options, journal: Journal) -> None:
        self._settings = settings
        self._options = options
        self._journal: RestorableJournal = as_restorable("import", journal)
        as_listable("import", journal)
        self._name = str(getattr(journal, "location", type(journal).__name__))
        server, username = settings.get("base_url", STAGING), settings["username"]
        self._owner: JournalAccount = account_of_user(server, username, options.journal_account)
        self._unnamed = account_of_user(server, username, None).account

    async def run(self, start: date | None, wait: float, references: Sequence[KnownReference]) -> ImportReport:
        mark = await self._journal.restored_from(self._owner.account)
        if mark is None:
            raise ConfigurationError(
                f"import: the journal {self._name} is not marked as restored from a backup, or the orders of this "
                "account were taken over already"
            )
        latest = (mark - _DAYS_BEFORE).date()
        if start is not None and start > latest:
            raise InvalidInput.of("start", f"must be {latest} or earlier: the backup is of {mark:%Y-%m-%d %H:%M} UTC")
        clock = self._options.clock
        arguments: dict[str, Any] = {**self._settings, "journal": None}
        async with AsyncMintedConnect(**arguments) as minted:
            await sleep_until(clock, clock.monotonic() + wait)
            report = ImportReport(self._name, mark, start or latest, clock.wall().date() + _DAY)
            orders = await read_orders(minted, start=report.start, end=report.end)
        imports, unread = self._prepare(orders.rows)
        if orders.unread or unread:
            return attrs.evolve(report, unread=tuple(dict.fromkeys((*orders.unread, *unread))))
        counts = ImportCount()
        for first in range(0, len(imports), _PER_TRANSACTION):
            page = imports[first : first + _PER_TRANSACTION]
            counts += await self._journal.import_orders(page, owner=self._owner, unnamed_account=self._unnamed)
        assigned, problems = await self._assign(references)
        account = self._owner.account
        if not await self._journal.end_import(mark, account=account, unnamed_account=self._unnamed):
            unread = [Unread(self._name, "it was marked with another time meanwhile: run the import again")]
        unassigned = [one for one in await self._imported() if one.assigned_at is None]
        return attrs.evolve(
            report,
            counts=counts,
            assigned=assigned,
            problems=tuple(problems),
            unassigned=tuple(unassigned),
            unread=tuple(unread),
        )

    def _prepare(self, rows: Iterable[OrderRow]) -> tuple[list[OrderImport], list[Unread]]:
        keeps_number = self._options.completion.order_keeps_number
        at = self._options.clock.wall()
        imports: list[OrderImport] = []
        unread: list[Unread] = []
        # Oldest first: intents are listed in the order in which they are stored.
        known = [row for row in rows if row.order is not None]
        for row in sorted(known, key=lambda row: (row.order.order_at, row.order.id) if row.order else ()):
            assert row.order is not None
            intent = _build_intent(row.order, at, is_failed=row.is_failed)
            if intent is None:
                unread.append(Unread("orders", f"the kind or the customer of order {row.id} is not known"))
                continue
            index = OrderIndex([row], keeps_number=keeps_number)
            imports.append(OrderImport(intent, lambda one, index=index: bool(index.find(one))))  # type: ignore[misc]
        return imports, unread

    async def _assign(self, references: Sequence[KnownReference]) -> tuple[int, list[str]]:
        """Assign references to imported intents; return the number of new assignments, and the problems."""
        if not references:
            return 0, []
        intents = {intent.order_id: intent for intent in await self._imported()}
        count, problems = 0, list[str]()
        for known in references:
            intent = intents.get(known.order_id)
            if intent is None or intent.reference == known.reference:
                continue
            if intent.external_customer_id != known.customer_id:
                problems.append(f"order {known.order_id} is not the one of this reference: it has another customer")
                continue
            try:
                await assign_reference(
                    self._journal,
                    intent.id,
                    known.reference,
                    owner=self._owner,
                    unnamed_account=self._unnamed,
                    at=self._options.clock.wall(),
                )
            except InvalidInput as error:
                problems.append(f"order {known.order_id}: {error}")
            else:
                count += 1
        return count, problems

    async def _imported(self) -> list[Intent]:
        """Return the imported intents of the account, oldest first."""
        listable = as_listable("import", self._journal)
        async with aclosing(iterate_pages(listable, IntentFilter(self._owner.account))) as pages:
            return [intent async for page in pages for intent in page if intent.imported_at is not None]


def _build_intent(order: Order, at: datetime, *, is_failed: bool) -> Intent | None:
    """Return the intent of an order; None if the order lacks something that an intent needs."""
    kind, customer = order.kind, order.customer.external_id
    if kind is None or not customer:
        return None
    return Intent(
        id=str(uuid.uuid4()),
        kind=kind,
        external_customer_id=customer,
        cart_token=order.token,
        basket_id=order.id,
        guid=order.guid,
        increment_id=order.increment_id,
        price_token=order.price_token,
        paid_total=order.paid_total,
        currency_code=order.currency_code,
        items=tuple((item.sku, item.amount) for item in order.items),
        created_at=order.order_at,
        state=IntentState.REJECTED if is_failed else IntentState.CONFIRMED,
        order_id=order.id,
        progress=OrderProgress.of(order),
        imported_at=at,
    )
