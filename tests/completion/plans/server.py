"""The sandbox of a run, in a process of its own: `python -m tests.completion.plans.server SETTINGS`.

Prints its URL and credentials as JSON, then a report for each line on stdin. It ends with stdin.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any

from minted_connect.sandbox import Sandbox
from tests.completion.chaos.witness import RequestObserver
from tests.completion.ledger import pieces
from tests.completion.plans.faults import random_faults
from tests.completion.plans.plan import LOCK_SECONDS, ORDERS_LAG, READS_LAG, Settings, write_line
from tests.support.random_faults import RandomFaults

_RENEWAL = 0.02
"""Seconds between two looks at the faults that were triggered."""


async def serve(settings: Settings) -> None:
    server = Sandbox(
        seed=settings.seed,
        lock_seconds=LOCK_SECONDS,
        # A second completion of one basket, or one after the price lock, makes an order too, which the report shows.
        single_shot=False,
        late_complete="reprice",
        reads_lag=READS_LAG,
        orders_lag=ORDERS_LAG,
    )
    async with server:
        observer = RequestObserver(server)
        met: Counter[str] = Counter()
        renewing = asyncio.ensure_future(_renew(random_faults(server, settings), met))
        write_line([server.url, server.username, server.password])
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while await lines.readline():
            write_line(_report(server, observer, met))
        renewing.cancel()


async def _renew(scopes: list[RandomFaults], met: Counter[str]) -> None:
    while True:
        for scope in scopes:
            met.update(fault.kind for fault in scope.planned if fault.hits)
            scope.renew(requests=40)
        await asyncio.sleep(_RENEWAL)


def _report(server: Sandbox, observer: RequestObserver, met: Counter[str]) -> dict[str, Any]:
    customers = {customer.id: customer.external_id for customer in server.shop.customers}
    return {
        "orders": [
            {"customer": customers[order.customer], "id": order.id, "items": pieces(order.lines)}
            for order in server.shop.orders
        ],
        "requests": server.requests.total,
        "completions": observer.total_posts,
        "posted_twice": observer.posted_twice(),
        "faults": met,
    }


if __name__ == "__main__":
    asyncio.run(serve(Settings.loads(sys.argv[1])))
