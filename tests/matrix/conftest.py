"""A world for each cell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from minted_connect import Options
from minted_connect.sandbox import ManualClock, Sandbox
from tests.matrix.proxy import Chaos

pytest.register_assert_rewrite("tests.matrix.scene")
from tests.matrix.scene import World  # noqa: E402 - only what is imported afterwards is rewritten

Build = Callable[..., Awaitable[World]]


@pytest.fixture
async def fast_loop(anyio_backend: str) -> None:
    """Keep asyncio from taking a stack for each future: in development mode that is half of the time here."""
    asyncio.get_running_loop().set_debug(False)


@pytest.fixture
async def build(fast_loop: None, connect: Any, tmp_path: Path, flavour: str) -> AsyncIterator[Build]:
    """Build a world; `options` go to the client."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> World:
            clock = ManualClock(auto_advance=True)
            sandbox = await stack.enter_async_context(Sandbox(clock=clock))
            proxy = await stack.enter_async_context(Chaos(sandbox, clock))
            journal = tmp_path / "journal.db"
            settings = {"journal": journal, "options": Options(clock=clock, random=lambda: 0.5), **options}
            minted = await connect(proxy.url, sandbox.username, sandbox.password, **settings)
            return World(sandbox, proxy, clock, minted, journal, flavour)

        yield make


@pytest.fixture
async def world(build: Build) -> World:
    return await build()
