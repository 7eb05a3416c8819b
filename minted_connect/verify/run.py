"""Probes the operations of a server, except those that move money."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import attrs

from minted_connect.client import AsyncMintedConnect
from minted_connect.config import Options
from minted_connect.core.request import OPERATIONS, Effect
from minted_connect.errors import APIError, AuthenticationFailed, MintedConnectError, ProtocolError
from minted_connect.hooks import Attempt
from minted_connect.models import Basket, Order, Page, Product, UnreadableRow
from minted_connect.verify.field_diff import Differences, diff
from minted_connect.verify.probes import ALTERNATIVE_PATHS, READS, ProbeInput, Read
from minted_connect.verify.report import Assessment, ProbeResult, Report

__all__ = ["verify"]

T = TypeVar("T")

_PATH_NOT_FOUND: Final = frozenset({404, 405, 410})
_CHANGES: Final = "changes data: --with-sandbox-customer tries it on a temporary customer"
_MOVES_MONEY: Final = "moves money: never tried"


async def verify(
    settings: Mapping[str, Any], *, customer: str | None = None, with_sandbox_customer: bool = False
) -> Report:
    """Call every operation that reads, and return a report. Never sends a completion.

    Args:
        settings: Arguments of `AsyncMintedConnect`. A journal in them is not used.
        customer: Id of a customer whose data may be read. Without one, operations that need a customer are not tried.
        with_sandbox_customer: Also create a customer, change it, fill and empty a basket, and remove the customer.

    Raises:
        ConfigurationError: if the settings are invalid.
        AuthenticationFailed: if the user name or password is wrong.
    """
    from minted_connect._version import __version__  # noqa: PLC0415 - the package imports this module

    run = _Run(settings)
    async with run.connect({}) as minted:
        if with_sandbox_customer:
            await run.probe_changes(minted)
        await run.probe_reads(minted, ProbeInput(customer))
        server = minted.base_url
    for name, operation in OPERATIONS.items():
        if name not in run.results:
            note = _MOVES_MONEY if operation.effect is Effect.COMPLETE else _CHANGES
            run.add_untried(name, note)
    results = tuple(run.results[name] for name in OPERATIONS)
    return Report(server, __version__, datetime.now(UTC), results)


class _RecordingClient(AsyncMintedConnect):
    """A client that hands out response data before it is converted, which alone shows fields that no model has."""

    def __init__(self, on_structure: Callable[[str, Any, Any], object], settings: dict[str, Any]) -> None:
        super().__init__(**settings)
        self._api.state.on_structure = on_structure

    @property
    def base_url(self) -> str:
        """Base URL of the server."""
        return self._api.state.transport.base_url


class _Run:
    """State of one verification: the data and attempts of the current probe, and the results so far."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings: dict[str, Any] = {**settings, "journal": None}
        self._options: Options = settings.get("options") or Options()
        self._structured: dict[str, tuple[Any, Any]] = {}
        """Response data and target type of the current probe, by operation name."""
        self._attempts: list[Attempt] = []
        self._paths: Mapping[str, str] = self._options.paths
        self.results: dict[str, ProbeResult] = {}

    def connect(self, paths: Mapping[str, str]) -> _RecordingClient:
        """Return a client with additional path corrections, whose attempts and response data are recorded."""
        options = attrs.evolve(self._options, on_attempt=self._attempts.append, paths={**self._paths, **paths})
        return _RecordingClient(self._record_data, {**self._settings, "options": options})

    async def probe_reads(self, minted: AsyncMintedConnect, known: ProbeInput) -> None:
        """Probe each operation that reads, unless it was already tried in this run."""
        for read in READS:
            earlier = self.results.get(read.operation)
            if earlier is not None and earlier.assessment is not Assessment.UNTRIED:
                continue
            if {"customer": known.customer is None, "order": known.order is None}.get(read.needs, False):
                what = "a customer (--customer, or --with-sandbox-customer)" if read.needs == "customer" else "an order"
                self.add_untried(read.operation, f"needs {what}")
                continue
            value = await self.probe(read.operation, lambda read=read, known=known: read.call(minted, known))  # type: ignore[misc]
            if read.operation == "orders.page" and value is not None:
                known = attrs.evolve(known, order=next(iter(cast("Page[Order]", value)), None))
            if self.results[read.operation].status in _PATH_NOT_FOUND:
                await self._try_alternatives(read, known)

    async def probe_changes(self, minted: AsyncMintedConnect) -> None:
        """Probe the operations that can be undone, on a temporary customer that is removed at the end."""
        name = f"verify-{secrets.token_hex(6)}"
        customers, baskets = minted.customers, minted.baskets
        created = await self.probe(
            "customers.create", lambda: customers.create(name, firstname="Verify", lastname="Run")
        )
        if self.results["customers.create"].assessment is Assessment.REFUSED:
            return
        try:
            if created is None:
                return  # the customer may exist all the same, so it is removed below
            await self.probe("customers.update", lambda: customers.update(name, lastname="Verified"))
            products: Page[Product] | None = await self.probe("products.page", minted.products.page)
            sku = next((product.sku for product in products or ()), None)
            if sku is None:
                return
            added: Basket | None = await self.probe("baskets.add_item", lambda: baskets.add_item(name, sku=sku))
            await self.probe_reads(minted, ProbeInput(name))
            if added is None:
                return
            basket = added
            await self.probe("baskets.update_item", lambda: baskets.update_item(basket, sku=sku, qty=2))
            await self.probe("baskets.delete_item", lambda: baskets.delete_item(basket, sku=sku))
            await self.probe("baskets.add_item", lambda: baskets.add_item(basket, sku=sku))
            await self.probe("baskets.clear", lambda: baskets.clear(basket))
        finally:
            await self.probe("customers.remove", lambda: customers.remove(name))

    async def probe(self, operation: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Make one call and store its result; return the call's value, or None if it failed."""
        self._structured.clear()
        self._attempts.clear()
        value: T | None = None
        failure: MintedConnectError | None = None
        try:
            value = await call()
        except AuthenticationFailed:
            raise  # every other call would fail too, and some servers count failed logins
        except MintedConnectError as error:
            failure = error
        unreadable: tuple[UnreadableRow, ...] = getattr(value, "unreadable", ())
        problems = tuple(problem for row in unreadable for problem in row.problems)
        self.results[operation] = self._assess(operation, failure, problems)
        return value

    def add_untried(self, operation: str, note: str) -> None:
        """Store that an operation was not tried, and why."""
        self.results[operation] = ProbeResult(
            operation=operation, assessment=Assessment.UNTRIED, path=self._path_of(operation), note=note
        )

    def _record_data(self, operation: str, data: Any, type_: Any) -> None:
        self._structured[operation] = data, type_

    def _path_of(self, operation: str) -> str:
        return self._paths.get(operation, OPERATIONS[operation].path)

    def _assess(
        self, operation: str, failure: MintedConnectError | None, problems: tuple[str, ...] = ()
    ) -> ProbeResult:
        statuses = [attempt.status for attempt in self._attempts if attempt.operation == operation]
        status = statuses[-1] if statuses else None
        data, type_ = self._structured.get(operation, (None, None))
        differences = diff(data, type_) if type_ is not None else Differences()
        decoded: bool | None = None
        note = ""
        if failure is None and status in _PATH_NOT_FOUND:
            assessment = Assessment.CONTRADICTED
            note = f"the client read {status} as «does not exist»: a wrong path gives the same response"
        elif failure is None and problems:
            assessment, decoded = Assessment.CONTRADICTED, False
        elif failure is None:
            decoded = True
            if type_ is not None and _is_empty(data):
                assessment = Assessment.EMPTY
            else:
                assessment = Assessment.DIFFERENT if differences.unknown else Assessment.VERIFIED
        elif isinstance(failure, ProtocolError):
            assessment, decoded, problems = Assessment.CONTRADICTED, False, failure.problems
        elif isinstance(failure, APIError):
            assessment = Assessment.CONTRADICTED if status in _PATH_NOT_FOUND else Assessment.REFUSED
            note = type(failure).__name__
        else:
            assessment, note = Assessment.UNREACHED, type(failure).__name__
        return ProbeResult(
            operation=operation,
            assessment=assessment,
            path=self._path_of(operation),
            status=status,
            decoded=decoded,
            unknown=differences.unknown,
            missing=() if assessment is Assessment.EMPTY else differences.missing,
            problems=problems,
            note=note,
        )

    async def _try_alternatives(self, read: Read, known: ProbeInput) -> None:
        original = self.results[read.operation]
        for path in ALTERNATIVE_PATHS.get(read.operation, ()):
            async with self.connect({read.operation: path}) as minted:
                await self.probe(read.operation, lambda minted=minted: read.call(minted, known))  # type: ignore[misc]
            result = self.results[read.operation]
            if result.decoded:
                self.results[read.operation] = attrs.evolve(
                    result,
                    assessment=Assessment.MOVED,
                    suggested_path=path,
                    note=f"{original.status} at {original.path}; found at {path}",
                )
                return
        # A 404 for a customer or order can also mean that the object does not exist.
        if read.needs:
            original = attrs.evolve(original, assessment=Assessment.NOT_FOUND)
        self.results[read.operation] = original


def _is_empty(data: Any) -> bool:
    return data in (None, []) or (isinstance(data, dict) and cast("dict[str, Any]", data).get("data") == [])
