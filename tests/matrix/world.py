"""The environment of a cell: the real client of either flavour, a proxy, and the sandbox behind it.

The proxy counts the requests that left the client, the sandbox those that were executed; the journal's file has the
intents.
"""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs
import trustme

from minted_connect import Completion, Options, OutcomeUnknown
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Basket, Intent
from minted_connect.sandbox import ManualClock, Sandbox
from tests.matrix.cells import BASKET_ITEMS, CUSTOMER, MatrixOperation
from tests.matrix.proxy import FaultProxy

ROOT: Final = Path(__file__).parents[2]
Hook = Callable[[], Awaitable[None]]


class Clock(ManualClock):
    """A clock that skips every pause; `during_sleep` runs once, in the event loop of the test, in the next pause."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start, auto_advance=True)
        self.during_sleep: Hook | None = None
        self._loop = asyncio.get_running_loop()

    async def sleep(self, seconds: float) -> None:
        hook, self.during_sleep = self.during_sleep, None
        if hook is not None:
            await run_in_loop(self._loop, hook)
        await super().sleep(seconds)


class HookedJournal(SqliteJournal):
    """A journal that runs `after_prepare` once, in the event loop of the test, after the next intent is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.after_prepare: Hook | None = None
        self._loop = asyncio.get_running_loop()

    async def prepare(self, intent: Intent) -> None:
        await super().prepare(intent)
        hook, self.after_prepare = self.after_prepare, None
        if hook is not None:
            await run_in_loop(self._loop, hook)


async def run_in_loop(loop: asyncio.AbstractEventLoop, hook: Hook) -> None:
    """Run a coroutine in an event loop, this one or another, and wait for it."""
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hook(), loop))


@attrs.define(eq=False)
class MatrixWorld:
    """A client, its proxy, and the sandbox behind the proxy."""

    sandbox: Sandbox
    proxy: FaultProxy
    clock: Clock
    minted: Any
    journal: Path
    flavour: str
    hooked_journal: HookedJournal
    """The journal object of the first client."""
    new_client: Callable[..., Awaitable[Any]]
    """Builds another client of the same flavour."""
    options: Callable[[Mapping[str, Any], Mapping[str, Any]], Options]
    """Builds the options of a client from the fields of its completion policy and further options."""
    basket: Basket = attrs.field(init=False)

    async def set_up(self, operation: MatrixOperation, *, after: float = 0.0) -> None:
        """Create a customer with a basket, and let the client log in and read the basket.

        The client reads it after `after` seconds, for servers whose reads lag.
        """
        shop = self.sandbox.shop
        owner = shop.create_customer(self.sandbox.username, CUSTOMER, {"firstname": "Grace", "lastname": "Hopper"})
        if operation.kind != "buy":
            for sku, amount in BASKET_ITEMS:
                shop.give(CUSTOMER, sku, amount)
        for sku, amount in BASKET_ITEMS:
            shop.add_item(owner, sku, amount, kind=operation.kind)  # type: ignore[arg-type]
        self.clock.advance(after)
        self.basket = await self.minted.baskets.get_active(CUSTOMER)
        self.sandbox.requests.clear()
        self.proxy.proxied_requests.clear()

    # Results of the operation

    def sent(self, operation: MatrixOperation) -> int:
        """Return the number of requests of this operation that left the client."""
        return self.proxy.count(operation.method, operation.path)

    def arrived(self, operation: MatrixOperation) -> int:
        """Return the number of requests of this operation that reached the server."""
        return len(self.sandbox.requests.of(operation.name))

    def reads(self, operation: MatrixOperation) -> int:
        """Return the number of reads of the path that reading back this operation uses."""
        return self.proxy.count("GET", operation.read_back_path)

    def states(self) -> list[str]:
        """Return the states of all intents in the journal's file."""
        if not self.journal.exists():
            return []
        with closing(sqlite3.connect(self.journal)) as database:
            return [state for (state,) in database.execute("SELECT state FROM intents ORDER BY rowid")]

    async def refusals(self) -> list[tuple[str, int | None]]:
        """Return the state of each open intent, and the status that refused it, as another process reads them."""
        journal = SqliteJournal(self.journal)
        try:
            intents = await journal.pending()
        finally:
            await journal.aclose()
        return [(str(intent.state), intent.refusal.status if intent.refusal else None) for intent in intents]

    async def settle(self, error: OutcomeUnknown) -> Completion:
        """Reconcile the intent of an error with the client of this world."""
        completion: Completion = await self.minted.complete.reconcile(error)
        return completion


@asynccontextmanager
async def run_child(
    world: MatrixWorld, operation: MatrixOperation, *child_options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Make the call in another process, with the same journal; `child_options` are those of `tests.matrix.child`."""
    credentials = (world.sandbox.username, world.sandbox.password)
    arguments = (world.proxy.url, *credentials, str(world.journal), world.flavour, operation.effect, *child_options)
    command = (sys.executable, "-X", "dev", "-W", "error", "-m", "tests.matrix.child", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def tls_contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a TLS context for the proxy, and one for a client that trusts it."""
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    return serving, trusting
