"""A world for each cell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from minted_connect import Options
from minted_connect.completion.journals.sqlite import SqliteJournal
from minted_connect.models import Intent
from minted_connect.sandbox import ManualClock, Sandbox
from tests.matrix.proxy import Chaos

pytest.register_assert_rewrite("tests.matrix.scene")
from tests.matrix.scene import World, contexts  # noqa: E402 - only what is imported afterwards is rewritten

Build = Callable[..., Awaitable[World]]
Hook = Callable[[], Awaitable[None]]


@pytest.fixture
async def fast_loop(anyio_backend: str) -> None:
    """Keep asyncio from taking a stack for each future: in development mode that is half of the time here."""
    asyncio.get_running_loop().set_debug(False)


class Clock(ManualClock):
    """Jumps over every pause; in the first one, `meanwhile` happens in the loop of the test."""

    def __init__(self) -> None:
        super().__init__(auto_advance=True)
        self.meanwhile: Hook | None = None
        self._loop = asyncio.get_running_loop()

    async def sleep(self, seconds: float) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await in_loop(self._loop, meanwhile)
        await super().sleep(seconds)


class Written(SqliteJournal):
    """A journal after whose writing, and before anything is sent, `meanwhile` happens in the loop of the test."""

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
    """Wait for something that has to happen in another loop, or in this one."""
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hook(), loop))


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def build(
    fast_loop: None, connect: Any, tmp_path: Path, flavour: str, authority: trustme.CA
) -> AsyncIterator[Build]:
    """Build a world, over TLS if asked for; `options` are those of the client, `settings` the rest it is given."""
    async with AsyncExitStack() as stack:

        async def make(*, tls: bool = False, host: str = "127.0.0.1", options: Any = None, **settings: Any) -> World:
            clock = Clock()
            sandbox = await stack.enter_async_context(Sandbox(clock=clock))
            serving, trusting = contexts(authority) if tls else (None, None)
            proxy = await stack.enter_async_context(Chaos(sandbox, clock, serving))
            path = tmp_path / "journal.db"
            journal = Written(path)
            client = {
                "journal": journal,
                "options": Options(clock=clock, random=lambda: 0.5, **(options or {})),
                "ssl_context": trusting,
                **settings,
            }

            async def again(host: str = host, **more: Any) -> Any:
                url = proxy.url.replace("127.0.0.1", host)
                return await connect(url, sandbox.username, sandbox.password, **{**client, **more})

            return World(sandbox, proxy, clock, await again(), path, flavour, journal, again)

        yield make


@pytest.fixture
async def world(build: Build) -> World:
    return await build()
