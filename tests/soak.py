"""A mixed load of any duration: ``python -m tests.soak [minutes] [--quirks laravel]``; `nox -s soak` runs ten minutes.

Both clients use a server on which one request in twenty fails. The exit status is 0 if at the end no outcome is
unknown, every order is confirmed in a journal, and neither memory nor the number of open files has grown.
"""

from __future__ import annotations

import argparse
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
from typing import Any, Literal

import anyio
import attrs

from minted_connect import AsyncMintedConnect, CompletionPolicy, MintedConnect, MintedConnectError, Options, Timeouts
from minted_connect.sandbox import ThreadedSandbox
from tests.conftest import Awaitably
from tests.support.load import Load
from tests.support.random_faults import RandomFaults
from tests.support.subprocesses import python

SERVER = "from tests.soak import serve; serve({quirks!r})"
WORKERS = 6
"""For each of the two clients."""
WARM_UP = 0.2
"""Share of the time after which memory and files may not grow any more."""
MAX_GROWTH = 20 * 2**20

POOL = 20
OPTIONS = Options(
    pool_size=POOL,
    # Both are true for the sandbox.
    completion=CompletionPolicy(fence_proves_not_executed=True, orders_lag=1, reconcile_budget=20),
)
TIMEOUTS = Timeouts(read=3, complete_read=3)


def serve(quirks: Literal["laravel"] | None = None) -> None:
    """Run the server, with random faults until a line arrives on standard input; print the number of orders at EOF."""
    faults_end, end = threading.Event(), threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        faults_end.set()
        sys.stdin.read()
        end.set()

    threading.Thread(target=listen).start()
    with ThreadedSandbox(seed=1, log_limit=0, status_interval=2.0, quirks=quirks) as sandbox:
        faults = RandomFaults(sandbox.faults, random.Random(), 0.05)
        print_line(f"{sandbox.url} {sandbox.username} {sandbox.password}")
        while not faults_end.wait(1.0):
            faults.renew(1000)
        faults.remove_all()
        end.wait()
        print_line(str(len(sandbox.shop.orders)))


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@attrs.frozen
class ResourceUsage:
    """The resources that this process uses."""

    memory: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> ResourceUsage:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count())

    def __str__(self) -> str:
        return f"{self.memory / 2**20:.1f} MiB resident, {self.files} files, {self.threads} threads"


@attrs.define
class Soak:
    minutes: float
    quirks: str | None = None
    ticks: int = 0
    changes: int = 0

    async def run(self) -> int:
        with python(SERVER.format(quirks=self.quirks)) as server, tempfile.TemporaryDirectory() as home:
            assert server.stdin is not None
            assert server.stdout is not None
            url, username, password = server.stdout.readline().split()
            # With a common journal, one client would reconcile purchases that the other has just sent.
            journals = [Path(home) / "async.db", Path(home) / "blocking.db"]
            settings: dict[str, Any] = {"base_url": url, "options": OPTIONS, "timeouts": TIMEOUTS}
            async with AsyncExitStack() as stack:
                minted = AsyncMintedConnect(username, password, journal=journals[0], **settings)
                await stack.enter_async_context(minted)
                blocking = MintedConnect(username, password, journal=journals[1], **settings)
                stack.push_async_callback(anyio.to_thread.run_sync, blocking.close)
                loads = [Load(minted, random.Random()), Load(Awaitably(blocking), random.Random())]
                first, last = await self.work(minted, loads)
                server.stdin.write("calm\n")
                server.stdin.flush()
                for load in loads:
                    # Without faults: after a fence that failed, nothing shows what emptied the basket.
                    await load.reconcile_pending(fence=True)
                unknown = sum([len(await load.minted.complete.pending()) for load in loads])
            server.stdin.close()
            orders = int(server.stdout.readline())
            confirmed = sum(map(count_confirmed, journals))
        calls = loads[0].outcomes + loads[1].outcomes
        print_line(
            f"{self.minutes:g} minutes, {calls.total()} calls, {self.ticks} prices, {self.changes} steps of orders"
        )
        print_line(", ".join(f"{name} {times}" for name, times in calls.most_common()))
        print_line(f"first: {first}")
        print_line(f"last:  {last}")
        print_line(f"orders: {orders}, known: {confirmed}, unknown left: {unknown}")
        has_grown = last.memory - first.memory > MAX_GROWTH or last.files > first.files + 3 * POOL
        return int(unknown > 0 or orders != confirmed or has_grown)

    async def work(self, minted: AsyncMintedConnect, loads: list[Load]) -> tuple[ResourceUsage, ResourceUsage]:
        started = time.monotonic()
        end = started + 60 * self.minutes

        async def repeatedly(work: Callable[[], Awaitable[object]], pause: float = 0.0) -> None:
            while time.monotonic() < end:
                await work()
                await asyncio.sleep(pause)

        async with anyio.create_task_group() as group:
            for load in loads:
                for _ in range(WORKERS):
                    group.start_soon(repeatedly, load.make_random_call)
                group.start_soon(repeatedly, load.reconcile_pending, 1.0)
            for _ in range(2):
                group.start_soon(repeatedly, lambda: self.watch(minted, loads[0], end))
            group.start_soon(repeatedly, lambda: self.listen(minted, end))
            await asyncio.sleep(60 * self.minutes * WARM_UP)
            first = ResourceUsage.now()
        return first, ResourceUsage.now()

    async def watch(self, minted: AsyncMintedConnect, load: Load, end: float) -> None:
        """Buy, and watch the order until it is final."""
        completion = await load.purchase()
        if completion is not None:
            try:
                async for _ in minted.orders.watch(completion):
                    self.changes += 1
                    if time.monotonic() > end:
                        return
            except MintedConnectError as error:
                load.outcomes[type(error).__name__] += 1

    async def listen(self, minted: AsyncMintedConnect, end: float) -> None:
        """Read the price feed for five seconds."""
        until = min(end, time.monotonic() + 5)
        try:
            async with minted.rates.feed(interval=0.2) as feed:
                async for _ in feed.subscribe():
                    self.ticks += 1
                    if time.monotonic() > until:
                        return
        except MintedConnectError:
            return  # a fault makes the server refuse the credentials


def count_confirmed(journal: Path) -> int:
    """Return the number of confirmed purchases in a journal."""
    with closing(sqlite3.connect(journal)) as database:
        return int(database.execute("SELECT count(*) FROM intents WHERE state = 'confirmed'").fetchone()[0])


def run_for_minutes(soak: Callable[[float], Awaitable[int]], arguments: Sequence[str] | None, default: float) -> int:
    """Run a soak test for the minutes in the arguments, or the default; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logger = logging.getLogger("minted_connect")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # failures are counted instead of logged

    async def run() -> int:
        return await soak(float(given[0]) if given else default)

    try:
        return asyncio.run(run())
    finally:
        logger.setLevel(before)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a mixed load, and check orders, journals, memory and files.")
    parser.add_argument("minutes", nargs="?", default="10")
    parser.add_argument("--quirks", choices=("laravel",), help="JSON shapes of the responses")
    given = parser.parse_args(arguments)
    return run_for_minutes(lambda minutes: Soak(minutes, given.quirks).run(), [given.minutes], 10.0)


if __name__ == "__main__":
    sys.exit(main())
