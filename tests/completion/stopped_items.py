"""Calls `buy_items` in a separate process, which stops itself at some steps.

`python -m tests.completion.stopped_items SETTINGS`. The settings are JSON: `credentials`, `base_url`, `journal`,
`stops` (seconds by name or number of a step), and `call` with the arguments of `buy_items`. A step is a write to the
journal, before and after it, or the end of a request.

Prints the name of the step before it stops. At its end it prints the number of the order, or the error. After a stop,
its clocks are as many seconds ahead as `stops` says, as if the stop had been that long.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from minted_connect import AsyncMintedConnect, CompletionPolicy, Options
from minted_connect.clock import SystemClock
from minted_connect.errors import MintedConnectError
from minted_connect.hooks import Attempt
from minted_connect.journal import open_journal
from minted_connect.journal.claims import ClaimJournal

WRITES: Final = frozenset({"claim", "renew_claim", "release_claim", "prepare", "settle", "record_refusal"})
POLICY: Final = {"orders_lag": 1.0, "latest_landing": 2.0, "fence_proves_not_executed": True}


class SleptClock(SystemClock):
    """The clock of the machine, and of the seconds that the process seems to have been stopped."""

    slept = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.slept

    def elapsed(self) -> float:
        return super().elapsed() + self.slept

    def wall(self) -> datetime:
        return super().wall() + timedelta(seconds=self.slept)


class Steps:
    """Counts the steps of the call, and stops the process at some of them."""

    def __init__(self, stops: Mapping[str, float]) -> None:
        self._stops = dict(stops)
        self._count = 0
        self.clock = SleptClock()

    def reach(self, name: str) -> None:
        self._count += 1
        for key in {name, str(self._count)} & self._stops.keys():
            write_line({"stopped": name})
            # To this thread: after `os.kill` it could run on until another thread has stopped the process.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            self.clock.slept += self._stops.pop(key)

    def reach_attempt(self, attempt: Attempt) -> None:
        self.reach(f"after {attempt.operation}")

    def around(self, name: str, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"before {name}")
            result = await write(*args, **kwargs)
            self.reach(f"after {name}")
            return result

        return call


class SteppedJournal:
    """A journal whose writes are steps."""

    def __init__(self, journal: Any, steps: Steps) -> None:
        for name in (name for name in dir(ClaimJournal) if not name.startswith("_")):
            method = getattr(journal, name)
            setattr(self, name, steps.around(name, method) if name in WRITES else method)


def write_line(value: Any) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


async def main(*, credentials: list[str], base_url: str, journal: str, stops: Mapping[str, float], call: Any) -> None:
    steps = Steps(stops)
    options = Options(clock=steps.clock, completion=CompletionPolicy(**POLICY), on_attempt=steps.reach_attempt)
    stepped: Any = SteppedJournal(open_journal(journal), steps)
    customer, items, total = call.pop("customer_id"), call.pop("items"), Decimal(call.pop("max_total"))
    async with AsyncMintedConnect(*credentials, base_url=base_url, journal=stepped, options=options) as minted:
        try:
            completion = await minted.complete.buy_items(customer, items, max_total=total, **call)
        except MintedConnectError as error:
            write_line({"error": type(error).__name__, "text": str(error)})
        else:
            write_line({"order": completion.order_id, "replayed": completion.replayed})


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
