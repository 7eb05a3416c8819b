"""The environment of a cell: the real client of either flavour, a proxy, and the sandbox behind it.

The proxy tells what left the client, the sandbox what was executed, and the journal's file what was written.
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
from tests.matrix.cells import BEFORE, CUSTOMER, MatrixOperation
from tests.matrix.proxy import Chaos

ROOT: Final = Path(__file__).parents[2]
Hook = Callable[[], Awaitable[None]]


class Clock(ManualClock):
    """A clock that skips every pause; during the first one, `meanwhile` runs in the event loop of the test."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start, auto_advance=True)
        self.meanwhile: Hook | None = None
        self._loop = asyncio.get_running_loop()

    async def sleep(self, seconds: float) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await in_loop(self._loop, meanwhile)
        await super().sleep(seconds)


class Written(SqliteJournal):
    """A journal that runs `meanwhile` in the event loop of the test after an intent is written but not sent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.meanwhile: Hook | None = None
        self._loop = asyncio.get_running_loop()

    async def prepare(self, intent: Intent) -> None:
        await super().prepare(intent)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await in_loop(self._loop, meanwhile)


async def in_loop(loop: asyncio.AbstractEventLoop, hook: Hook) -> None:
    """Run a coroutine in an event loop, this one or another, and wait for it."""
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hook(), loop))


@attrs.define(eq=False)
class MatrixWorld:
    """A client, its proxy, and the sandbox behind the proxy."""

    sandbox: Sandbox
    proxy: Chaos
    clock: Clock
    minted: Any
    journal: Path
    flavour: str
    writing: Written
    """The journal of that path."""
    another: Callable[..., Awaitable[Any]]
    """Builds another client of the same flavour."""
    options: Callable[[Mapping[str, Any], Mapping[str, Any]], Options]
    """Builds the options of a client from the fields of its completion policy and further options."""
    basket: Basket = attrs.field(init=False)

    async def ready(self, operation: MatrixOperation, *, after: float = 0.0) -> None:
        """Create a customer with a basket, and let the client log in and read the basket.

        The client reads it after `after` seconds, for servers whose reads are behind.
        """
        shop = self.sandbox.shop
        owner = shop.create_customer(self.sandbox.username, CUSTOMER, {"firstname": "Grace", "lastname": "Hopper"})
        if operation.kind != "buy":
            for sku, amount in BEFORE:
                shop.give(CUSTOMER, sku, amount)
        for sku, amount in BEFORE:
            shop.add_item(owner, sku, amount, kind=operation.kind)  # type: ignore[arg-type]
        self.clock.advance(after)
        self.basket = await self.minted.baskets.get_active(CUSTOMER)
        self.sandbox.requests.clear()
        self.proxy.proxied_requests.clear()

    # What happened

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
        opened = SqliteJournal(self.journal)
        try:
            found = await opened.pending()
        finally:
            await opened.aclose()
        return [(str(one.state), one.refusal.status if one.refusal else None) for one in found]

    async def settle(self, error: OutcomeUnknown) -> Completion:
        """Reconcile the intent of an error with the client of this world."""
        completion: Completion = await self.minted.complete.reconcile(error)
        return completion


@asynccontextmanager
async def child(
    world: MatrixWorld, operation: MatrixOperation, *ways: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Make the call in another process, with the same journal; the `ways` are those of `tests.matrix.child`."""
    credentials = (world.sandbox.username, world.sandbox.password)
    arguments = (world.proxy.url, *credentials, str(world.journal), world.flavour, operation.effect, *ways)
    command = (sys.executable, "-X", "dev", "-W", "error", "-m", "tests.matrix.child", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a TLS context for the proxy, and one for a client that trusts it."""
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    return serving, trusting
