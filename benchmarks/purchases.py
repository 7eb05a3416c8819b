"""Purchases per second with each journal: what its commits cost, beside the latency of the disk."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

import attrs

from benchmarks.measure import Cost
from benchmarks.server import ROOT, Served
from minted_connect import AsyncMintedConnect, Basket, Options

__all__ = ["AT_ONCE", "MEMORY", "PURCHASES", "Journal", "Purchases", "fsync_latency", "journals", "measure"]

PURCHASES: Final = 200
AT_ONCE: Final = 20
MEMORY: Final = "journal in memory"
SKU: Final = "MNTBAE0001"

Journal = Callable[[], str | None]
"""Returns the location of a new journal, None for one in memory."""

_numbers = count()


@attrs.define
class Purchases:
    """The costs of one purchase, and how long each took."""

    costs: list[Cost] = attrs.field(factory=list[Cost])
    seconds: list[float] = attrs.field(factory=list[float])

    def note(self, base: Purchases | None) -> str:
        """Return rate and latencies; with the journal in memory, also their ratios."""
        rate = 1 / median(cost.wall for cost in self.costs)
        p50, p99 = self.share(0.5), self.share(0.99)
        text = f"{rate:.0f}/s, p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms"
        return text if base is None else f"{text} ({p99 / base.share(0.99):.1f} x memory's)"

    def share(self, part: float) -> float:
        """Return the seconds within which this part of the purchases ended."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def measure(server: Served, contenders: Mapping[str, Journal], repetitions: int) -> dict[str, Purchases]:
    """Make purchases with each journal in turn; a first repetition is discarded."""
    found = {what: Purchases() for what in contenders}
    names = list(contenders)
    for repetition in range(repetitions + 1):
        for what in names:
            cost, seconds = asyncio.run(_purchase(server, contenders[what]()))
            if repetition:
                found[what].costs.append(cost)
                found[what].seconds += seconds
        names.reverse()
    return found


async def _purchase(server: Served, journal: str | None) -> tuple[Cost, list[float]]:
    options = Options(pool_size=AT_ONCE)
    settings = {"base_url": server.url, "journal": journal, "options": options}
    async with AsyncMintedConnect(server.username, server.password, **settings) as minted:  # type: ignore[arg-type]
        baskets: list[Basket] = []
        for _ in range(PURCHASES):
            customer = f"benchmark-{next(_numbers)}"
            await minted.customers.create(customer)
            baskets.append(await minted.baskets.add_item(customer, sku=SKU))
        seconds: list[float] = []
        queue = iter(baskets)

        async def buy() -> None:
            for basket in queue:
                started = time.perf_counter()
                await minted.complete.buy(basket, expected_total=basket.paid_total)
                seconds.append(time.perf_counter() - started)

        # The first one creates the journal.
        first = next(queue)
        await minted.complete.buy(first, expected_total=first.paid_total)
        busy, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(buy() for _ in range(AT_ONCE)))
        number = PURCHASES - 1
        cost = Cost((time.perf_counter() - started) / number, (time.process_time() - busy) / number)
    return cost, seconds


@contextmanager
def journals() -> Generator[dict[str, Journal], None, None]:
    """Yield the journals that this machine can have: files on its disk, and a temporary PostgreSQL server."""
    with ExitStack() as stack:
        found: dict[str, Journal] = {MEMORY: lambda: None}
        # Not the directory for temporary files, which is often in memory.
        (ROOT / "build").mkdir(exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="journals-", dir=ROOT / "build")))
        if _is_in_memory(folder):
            print(f"no journal in a file: {folder} is in memory", file=sys.stderr)
        else:
            found["SQLite journal"] = lambda: str(folder / f"{next(_numbers)}.db")
        try:
            from tests.support import postgres  # noqa: PLC0415 - needs psycopg and pytest

            cluster = stack.enter_context(postgres.running())
        except Exception as error:  # noqa: BLE001 - without PostgreSQL, the case has one contender less
            print(f"no journal in PostgreSQL: {type(error).__name__}", file=sys.stderr)
        else:
            # The tests switch it off; here the disk is what is measured.
            cluster.stop()
            cluster.start(fsync="on")
            found["PostgreSQL journal"] = lambda: stack.enter_context(cluster.database()).url
        yield found


def _is_in_memory(folder: Path) -> bool:
    if sys.platform != "linux":
        return False
    path, kinds = str(folder), dict[str, str]()
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        if path == mount or path.startswith(mount.rstrip("/") + "/"):
            kinds[mount] = kind
    return kinds[max(kinds, key=len)] in {"tmpfs", "ramfs"}


def fsync_latency() -> float:
    """Return the median seconds of an fsync after a write of 4 KiB, on the disk of the journals."""
    seconds: list[float] = []
    with tempfile.TemporaryFile(dir=ROOT / "build") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return median(seconds)
