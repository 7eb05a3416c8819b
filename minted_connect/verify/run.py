"""Asking a server about every operation that can be asked about without moving money."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs

from minted_connect.client import AsyncMintedConnect
from minted_connect.config import Options
from minted_connect.core.api_client import ApiClient
from minted_connect.core.request import OPERATIONS, Effect, Request
from minted_connect.core.response import Response
from minted_connect.errors import APIError, AuthenticationFailed, MintedConnectError, ProtocolError
from minted_connect.hooks import Attempt
from minted_connect.models import Basket, Order, Page, Product
from minted_connect.verify.diff import Differences, differences
from minted_connect.verify.probes import ALTERNATIVE_PATHS, READS, Known, Read
from minted_connect.verify.report import Assessment, Finding, Report

if TYPE_CHECKING:
    from minted_connect.completion.completions import AsyncCompletions
    from minted_connect.sandbox import Sandbox

__all__ = ["verify"]

T = TypeVar("T")

_GONE: Final = frozenset({404, 405, 410})
_CHANGES: Final = "changes something: --with-sandbox-customer tries it on a customer of its own"
_MONEY: Final = "moves money: never tried"


class _Ear(ApiClient):
    """A caller that keeps what it makes models of."""

    def __init__(self, other: ApiClient, heard: dict[str, tuple[Any, Any]]) -> None:
        # The rest of its state is what every sibling has.
        self.__dict__.update(other.__dict__)
        self._heard = heard

    def structure(
        self, data: Any, returns: type[T], request: Request | None = None, response: Response | None = None
    ) -> T:
        if request is not None:
            self._heard[request.operation.name] = (data, returns)
        return super().structure(data, returns, request, response)


class _Heard(AsyncMintedConnect):
    """A client that is listened to: what an answer held that no model knows is seen nowhere else."""

    def __init__(self, heard: dict[str, tuple[Any, Any]], settings: dict[str, Any]) -> None:
        self._heard = heard
        super().__init__(**settings)

    def _assemble(self, api: ApiClient, complete: AsyncCompletions, server: Sandbox | None) -> None:
        super()._assemble(_Ear(api, self._heard), complete, server)

    @property
    def base_url(self) -> str:
        """The server's."""
        return self._api.state.transport.base_url


async def verify(
    settings: Mapping[str, Any], *, customer: str | None = None, with_sandbox_customer: bool = False
) -> Report:
    """Ask about every operation that reads, and return what was found; no completion is ever tried.

    Args:
        settings: Arguments of `AsyncMintedConnect`.
        customer: Whose data may be read; without one, what needs a customer is not tried.
        with_sandbox_customer: Also create a customer, change it, fill and empty a basket, and remove it again.

    Raises:
        ConfigurationError: settings that cannot work.
        AuthenticationFailed: user name or password is wrong.
    """
    from minted_connect import __version__  # noqa: PLC0415 - the package imports from here

    run = _Run(settings)
    async with run.client({}) as minted:
        if with_sandbox_customer:
            await run.reversible(minted)
        await run.reads(minted, Known(customer))
        server = minted.base_url
    for name, operation in OPERATIONS.items():
        if name not in run.findings:
            note = _MONEY if operation.effect is Effect.COMPLETE else _CHANGES
            run.findings[name] = Finding(
                operation=name, verdict=Assessment.UNTRIED, path=run.paths.get(name, operation.path), note=note
            )
    findings = tuple(run.findings[name] for name in OPERATIONS)
    return Report(server, __version__, datetime.now(UTC), findings)


class _Run:
    """One run: what was heard, and what it means."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings: dict[str, Any] = {**settings, "journal": None}
        self._options: Options = settings.get("options") or Options()
        self._heard: dict[str, tuple[Any, Any]] = {}
        self._attempts: list[Attempt] = []
        self.paths: Mapping[str, str] = self._options.paths
        self.findings: dict[str, Finding] = {}

    def client(self, paths: Mapping[str, str]) -> _Heard:
        """Return a client that is listened to, with other paths."""
        options = attrs.evolve(self._options, on_attempt=self._attempts.append, paths={**self._options.paths, **paths})
        return _Heard(self._heard, {**self._settings, "options": options})

    async def reads(self, minted: AsyncMintedConnect, known: Known) -> None:
        """Ask about what reads, as far as it was not heard of yet."""
        for read in READS:
            heard = self.findings.get(read.operation)
            if heard is not None and heard.verdict is not Assessment.UNTRIED:
                continue
            lacks = {"customer": known.customer is None, "order": known.order is None}.get(read.needs, False)
            if lacks:
                self._untried(read)
                continue
            found = await self.probe(read.operation, lambda read=read, known=known: read.call(minted, known))  # type: ignore[misc]
            if read.operation == "orders.page" and found is not None:
                known = attrs.evolve(known, order=next(iter(cast("Page[Order]", found)), None))
            if self.findings[read.operation].status in _GONE:
                await self._elsewhere(read, known)

    async def reversible(self, minted: AsyncMintedConnect) -> None:
        """Try what can be taken back, on a customer that is made for it and removed again."""
        name = f"verify-{secrets.token_hex(6)}"
        customers, baskets = minted.customers, minted.baskets
        created = await self.probe(
            "customers.create", lambda: customers.create(name, firstname="Verify", lastname="Run")
        )
        if self.findings["customers.create"].verdict is Assessment.REFUSED:
            return
        try:
            if created is None:
                return  # it may be there all the same
            await self.probe("customers.update", lambda: customers.update(name, lastname="Verified"))
            products: Page[Product] | None = await self.probe("products.page", minted.products.page)
            sku = next((product.sku for product in products or ()), None)
            if sku is None:
                return
            added: Basket | None = await self.probe("baskets.add_item", lambda: baskets.add_item(name, sku=sku))
            await self.reads(minted, Known(name))
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
        """Make one call, and note what it means; return what it gave, if anything."""
        self._heard.clear()
        self._attempts.clear()
        made: T | None = None
        failed: MintedConnectError | None = None
        try:
            made = await call()
        except AuthenticationFailed:
            raise  # every other call would meet the same, and some servers count
        except MintedConnectError as error:
            failed = error
        self.findings[operation] = self._judged(operation, failed)
        return made

    def _judged(self, operation: str, failed: MintedConnectError | None) -> Finding:
        statuses = [one.status for one in self._attempts if one.operation == operation]
        status = statuses[-1] if statuses else None
        path = self.paths.get(operation, OPERATIONS[operation].path)
        data, type_ = self._heard.get(operation, (None, None))
        found = differences(data, type_) if type_ is not None else Differences()
        problems: tuple[str, ...] = ()
        decoded: bool | None = None
        note = ""
        if failed is None and status in _GONE:
            verdict, note = Assessment.CONTRADICTED, "read as «there is none»: a wrong path looks the same"
        elif failed is None:
            decoded = True
            empty = type_ is not None and _is_empty(data)
            verdict = Assessment.EMPTY if empty else Assessment.DIFFERENT if found.unknown else Assessment.VERIFIED
        elif isinstance(failed, ProtocolError):
            verdict, decoded, problems = Assessment.CONTRADICTED, False, failed.problems
        elif isinstance(failed, APIError):
            verdict = Assessment.CONTRADICTED if status in _GONE else Assessment.REFUSED
            note = type(failed).__name__
        else:
            verdict, note = Assessment.UNREACHED, type(failed).__name__
        return Finding(
            operation=operation,
            verdict=verdict,
            path=path,
            status=status,
            decoded=decoded,
            unknown=found.unknown,
            missing=() if verdict is Assessment.EMPTY else found.missing,
            problems=problems,
            note=note,
        )

    async def _elsewhere(self, read: Read, known: Known) -> None:
        there = self.findings[read.operation]
        for path in ALTERNATIVE_PATHS.get(read.operation, ()):
            async with self.client({read.operation: path}) as minted:
                await self.probe(read.operation, lambda minted=minted: read.call(minted, known))  # type: ignore[misc]
            found = self.findings[read.operation]
            if found.decoded:
                self.findings[read.operation] = attrs.evolve(
                    found,
                    verdict=Assessment.MOVED,
                    suggested_path=path,
                    note=f"{there.status} at {there.path}; found at {path}",
                )
                return
        # What is asked for by name may just not be there.
        self.findings[read.operation] = attrs.evolve(there, verdict=Assessment.UNSURE) if read.needs else there

    def _untried(self, read: Read) -> None:
        what = "a customer (--customer, or --with-sandbox-customer)" if read.needs == "customer" else "an order"
        self.findings[read.operation] = Finding(
            operation=read.operation,
            verdict=Assessment.UNTRIED,
            path=self.paths.get(read.operation, OPERATIONS[read.operation].path),
            note=f"needs {what}",
        )


def _is_empty(data: Any) -> bool:
    return data in (None, []) or (isinstance(data, dict) and cast("dict[str, Any]", data).get("data") == [])
