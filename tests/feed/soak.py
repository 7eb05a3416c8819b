"""A feed at ten ticks a second: ``python -m tests.feed.soak [minutes]``; `nox -s soak_feed` runs thirty.

Subscribers of every kind, of both clients, listen to a server that lets one poll in a hundred fail. The exit status
is 1 if a tick was lost without being counted as dropped, a tick was repeated, or memory, files or threads have grown.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from minted_connect import AsyncMintedConnect, MintedConnect, RateFeed, RetryPolicy, Tick
from minted_connect.sandbox import ThreadedSandbox
from tests.soak import ResourceUsage, print_line, run_for_minutes
from tests.support.subprocesses import python

SERVER = "from tests.feed.soak import serve; serve()"
INTERVAL = 0.1
FEED: dict[str, Any] = {"interval": INTERVAL, "jitter": 0, "max_backoff": INTERVAL, "breaker": None}
WARM_UP = 0.2
"""Share of the run after which memory, files and threads must not grow."""
MAX_GROWTH = 8 * 2**20
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 503}),
    ("drop_before_read", {"reset": True}),
    ("drop_after_commit", {}),
    ("truncate", {}),
    ("html", {}),
]


def serve() -> None:
    """Run the server until standard input ends; prices change with every poll, and one poll in a hundred fails."""
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), end.set())).start()
    rng = random.Random()
    with ThreadedSandbox(seed=1, log_limit=0, price_interval=INTERVAL / 2) as sandbox:
        print_line(f"{sandbox.url} {sandbox.username} {sandbox.password}")
        while not end.wait(10 * INTERVAL):
            # Two clients poll, so a fault is added every 20 polls in 20 % of the cases: one poll in a hundred fails.
            if rng.random() < 0.2:
                kind, arguments = rng.choice(FAULTS)
                sandbox.faults.add(kind, path="*/rates", times=1, **arguments)
        print_line(str(sandbox.requests.total))


@attrs.define
class Listener:
    """Counts the ticks of one buffered subscription, which must receive one tick of gold per round."""

    name: str
    seen: int = 0
    fresh: int = 0
    repeated: int = 0
    number: int = 0

    def record(self, tick: Tick) -> None:
        self.seen += 1
        if not tick.stale:
            self.fresh += 1
            self.repeated += tick.number <= self.number
            self.number = tick.number

    def lost(self, rounds: int, dropped: int = 0) -> int:
        return rounds - self.seen - dropped


@attrs.define
class Soak:
    minutes: float
    lost: int = 0
    repeated: int = 0
    ticks: int = 0
    dropped: int = 0
    visits: int = 0
    alerts: int = 0

    async def run(self) -> int:
        with python(SERVER) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            url, username, password = server.stdout.readline().split()
            settings: dict[str, Any] = {"base_url": url, "retry": RetryPolicy.none()}
            async with AsyncMintedConnect(username, password, **settings) as minted:
                with MintedConnect(username, password, **settings) as blocking_client, ThreadPoolExecutor(1) as pool:
                    blocking = asyncio.get_running_loop().run_in_executor(pool, self.listen_in_threads, blocking_client)
                    first, last, feed = await self.listen(minted)
                    polls = feed._source._poller.polls + await blocking
            server.stdin.close()
            requests = int(server.stdout.readline())
        print_line(
            f"{self.minutes:g} minutes, {polls} polls, {requests} requests, {feed.failures} failed in the first feed"
        )
        print_line(
            f"{self.ticks} ticks seen, {self.visits} visits, {self.alerts} alerts, {self.dropped} dropped on purpose"
        )
        print_line(f"first: {first}")
        print_line(f"last:  {last}")
        grown = last.memory - first.memory > MAX_GROWTH or last.files > first.files + 3 or last.threads > first.threads
        # A few more requests than polls: digest challenges. Failed polls are not retried.
        has_extra_requests = requests > 1.02 * polls + 10
        print_line(
            f"lost: {self.lost}, repeated: {self.repeated}"
            + ", grown" * grown
            + ", too many requests" * has_extra_requests
        )
        return int(self.lost != 0 or self.repeated > 0 or grown or has_extra_requests)

    async def listen(self, minted: AsyncMintedConnect) -> tuple[ResourceUsage, ResourceUsage, RateFeed]:
        feed = minted.rates.feed(**FEED)
        listeners = [Listener(f"buffered {number}") for number in range(20)]
        slow = Listener("slow")
        # Subscribe before the first round, so that each subscription receives a tick for every round.
        buffered = [feed.subscribe(metal="gold", buffer=10_000) for _ in listeners]
        slow_ticks = feed.subscribe(metal="gold", buffer=5)
        async with feed:
            tasks = [
                *(
                    asyncio.create_task(self.consume(one, ticks, feed))
                    for one, ticks in zip(listeners, buffered, strict=True)
                ),
                asyncio.create_task(self.consume(slow, slow_ticks, feed, pause=15 * INTERVAL)),
                *(
                    asyncio.create_task(self.read_latest(feed, metal))
                    for metal in ("gold", "silver")
                    for _ in range(50)
                ),
                *(asyncio.create_task(self.resubscribe(feed)) for _ in range(5)),
                *(asyncio.create_task(self.wait_for_ticks(feed)) for _ in range(5)),
            ]
            first, last = await self.measure()
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
        for one in listeners:
            self.check(one, feed._hub.round)
        self.check(slow, feed._hub.round, slow_ticks.dropped)
        self.dropped = slow_ticks.dropped
        return first, last, feed

    async def measure(self) -> tuple[ResourceUsage, ResourceUsage]:
        await asyncio.sleep(60 * self.minutes * WARM_UP)
        gc.collect()
        first = ResourceUsage.now()
        await asyncio.sleep(60 * self.minutes * (1 - WARM_UP))
        gc.collect()
        return first, ResourceUsage.now()

    def check(self, listener: Listener, rounds: int, dropped: int = 0) -> None:
        lost = listener.lost(rounds, dropped)
        if lost or listener.repeated:
            print_line(f"{listener.name}: {lost} lost, {listener.repeated} repeated, of {rounds}")
        self.lost += abs(lost)
        self.repeated += listener.repeated
        self.ticks += listener.seen

    async def consume(self, listener: Listener, ticks: Any, feed: RateFeed, pause: float = 0.0) -> None:
        async for tick in ticks:
            listener.record(tick)
            if pause and not feed._hub.is_closed:
                await asyncio.sleep(pause)

    async def read_latest(self, feed: RateFeed, metal: str) -> None:
        """Read without a buffer, so that ticks may be skipped."""
        number = 0
        async for tick in feed.subscribe(metal=metal, changes_only=True):
            self.repeated += not tick.stale and tick.number <= number
            number = tick.number
            self.ticks += 1

    async def resubscribe(self, feed: RateFeed) -> None:
        """Subscribe, read some ticks, and abandon the subscription, repeatedly."""
        while not feed._hub.is_closed:
            numbers: list[int] = []
            async for tick in feed.subscribe(metal="gold", buffer=100):
                if not tick.stale:
                    numbers.append(tick.number)
                if len(numbers) == 20:
                    break
            self.repeated += numbers != sorted(set(numbers))
            self.visits += 1

    async def wait_for_ticks(self, feed: RateFeed) -> None:
        """Call `wait_for` repeatedly; some calls time out."""
        number = 0
        while not feed._hub.is_closed:
            after = number
            try:
                tick = await feed.wait_for(lambda tick, after=after: tick.number > after + 7, timeout=5 * INTERVAL)
            except TimeoutError:
                continue
            except Exception:
                assert feed._hub.is_closed
                return
            number = tick.number
            self.alerts += 1

    def listen_in_threads(self, blocking_client: MintedConnect) -> int:
        """Listen with the blocking client, in three threads; return the number of polls."""
        feed = blocking_client.rates.feed(**FEED)
        listeners = [Listener(f"thread {number}") for number in range(3)]
        subscriptions = [feed.subscribe(metal="gold", buffer=10_000) for _ in listeners]

        def consume(listener: Listener, ticks: Any) -> None:
            for tick in ticks:
                listener.record(tick)

        threads = [threading.Thread(target=consume, args=pair) for pair in zip(listeners, subscriptions, strict=True)]
        with feed:
            for thread in threads:
                thread.start()
            time.sleep(60 * self.minutes)
        for thread in threads:
            thread.join()
        for listener in listeners:
            self.check(listener, feed._inner._hub.round)
        return int(feed._inner._source._poller.polls)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_for_minutes(lambda minutes: Soak(minutes).run(), arguments, 30.0)


if __name__ == "__main__":
    sys.exit(main())
