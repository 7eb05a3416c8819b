"""A mixed load for as long as you like: ``python -m tests.soak [minutes]``; `nox -s soak` runs ten.

Both clients share a journal and a server that has one request in twenty go wrong. At the end nothing may be unknown,
every order must be known, and nothing may have grown: the exit status says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import anyio
import attrs

from minted_connect import AsyncMintedConnect, CompletionPolicy, MintedConnect, MintedConnectError, Options, Timeouts
from minted_connect.sandbox import ThreadedSandbox
from tests.conftest import Awaitably
from tests.support.load import Load, Weather
from tests.support.subprocesses import python

SERVER = "from tests.soak import serve; serve()"
WORKERS = 6
"""For each of the two clients."""
WARM = 0.2
"""Share of the time after which nothing may grow any more."""
MOST_GROWTH = 20 * 2**20

POOL = 20
OPTIONS = Options(
    pool_size=POOL,
    # The sandbox keeps to both.
    completion=CompletionPolicy(fence_proves_not_executed=True, orders_lag=1, reconcile_budget=20),
)
TIMEOUTS = Timeouts(read=3, complete_read=3)


def serve() -> None:
    """Be the server: in bad weather until a line comes on standard input; count the orders once that has ended."""
    over, end = threading.Event(), threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        over.set()
        sys.stdin.read()
        end.set()

    threading.Thread(target=listen).start()
    with ThreadedSandbox(seed=1, log_limit=0, status_interval=2.0) as sandbox:
        weather = Weather(sandbox.faults, random.Random(), 0.05)
        say(f"{sandbox.url} {sandbox.username} {sandbox.password}")
        while not over.wait(1.0):
            weather.turn(1000)
        weather.clear_up()
        end.wait()
        say(str(len(sandbox.shop.orders)))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@attrs.frozen
class Weight:
    """What this process takes up."""

    memory: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> Weight:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count())

    def __str__(self) -> str:
        return f"{self.memory / 2**20:.1f} MiB resident, {self.files} files, {self.threads} threads"


@attrs.define
class Soak:
    minutes: float
    ticks: int = 0
    changes: int = 0

    async def run(self) -> int:
        with python(SERVER) as server, tempfile.TemporaryDirectory() as home:
            assert server.stdin is not None
            assert server.stdout is not None
            url, username, password = server.stdout.readline().split()
            # Each has a journal of its own, or one would look for what the other is just buying.
            journals = [Path(home) / "async.db", Path(home) / "blocking.db"]
            settings: dict[str, Any] = {"base_url": url, "options": OPTIONS, "timeouts": TIMEOUTS}
            async with AsyncExitStack() as stack:
                minted = AsyncMintedConnect(username, password, journal=journals[0], **settings)
                await stack.enter_async_context(minted)
                twin = MintedConnect(username, password, journal=journals[1], **settings)
                stack.push_async_callback(anyio.to_thread.run_sync, twin.close)
                loads = [Load(minted, random.Random()), Load(Awaitably(twin), random.Random())]
                first, last = await self.work(minted, loads)
                server.stdin.write("calm\n")
                server.stdin.flush()
                for load in loads:
                    # A fence that breaks off in bad weather leaves a basket of which nobody can tell who emptied it.
                    await load.find_out(fence=True)
                left = sum([len(await load.minted.complete.pending()) for load in loads])
            server.stdin.close()
            orders = int(server.stdout.readline())
            known = sum(map(confirmed, journals))
        calls = loads[0].ends + loads[1].ends
        say(f"{self.minutes:g} minutes, {calls.total()} calls, {self.ticks} prices, {self.changes} steps of orders")
        say(", ".join(f"{name} {times}" for name, times in calls.most_common()))
        say(f"first: {first}")
        say(f"last:  {last}")
        say(f"orders: {orders}, known: {known}, unknown left: {left}")
        grown = last.memory - first.memory > MOST_GROWTH or last.files > first.files + 3 * POOL
        return int(left > 0 or orders != known or grown)

    async def work(self, minted: AsyncMintedConnect, loads: list[Load]) -> tuple[Weight, Weight]:
        started = time.monotonic()
        end = started + 60 * self.minutes

        async def repeatedly(work: Callable[[], Awaitable[object]], pause: float = 0.0) -> None:
            while time.monotonic() < end:
                await work()
                await asyncio.sleep(pause)

        async with anyio.create_task_group() as group:
            for load in loads:
                for _ in range(WORKERS):
                    group.start_soon(repeatedly, load.some)
                group.start_soon(repeatedly, load.find_out, 1.0)
            for _ in range(2):
                group.start_soon(repeatedly, lambda: self.watch(minted, loads[0], end))
            group.start_soon(repeatedly, lambda: self.listen(minted, end))
            await asyncio.sleep(60 * self.minutes * WARM)
            first = Weight.now()
        return first, Weight.now()

    async def watch(self, minted: AsyncMintedConnect, load: Load, end: float) -> None:
        """Buy, and follow the order to its end."""
        done = await load.purchase()
        if done is not None:
            try:
                async for _ in minted.orders.watch(done):
                    self.changes += 1
                    if time.monotonic() > end:
                        return
            except MintedConnectError as error:
                load.ends[type(error).__name__] += 1

    async def listen(self, minted: AsyncMintedConnect, end: float) -> None:
        """Listen to prices for a while, and go away."""
        until = min(end, time.monotonic() + 5)
        try:
            async with minted.rates.feed(interval=0.2) as feed:
                async for _ in feed.subscribe():
                    self.ticks += 1
                    if time.monotonic() > until:
                        return
        except MintedConnectError:
            return  # it was told that its credentials are wrong


def confirmed(journal: Path) -> int:
    """Count the purchases that a journal knows to have been made."""
    with closing(sqlite3.connect(journal)) as database:
        return int(database.execute("SELECT count(*) FROM intents WHERE state = 'confirmed'").fetchone()[0])


def soaked(soak: Callable[[float], Awaitable[int]], arguments: Sequence[str] | None, usual: float) -> int:
    """Soak for as many minutes as the arguments say, or the usual ones; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logger = logging.getLogger("minted_connect")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is counted; ten minutes of it would be a long log

    async def run() -> int:
        return await soak(float(given[0]) if given else usual)

    try:
        return asyncio.run(run())
    finally:
        logger.setLevel(before)


def main(arguments: Sequence[str] | None = None) -> int:
    return soaked(lambda minutes: Soak(minutes).run(), arguments, 10.0)


if __name__ == "__main__":
    sys.exit(main())
