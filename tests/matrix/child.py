"""A process of its own that makes one call through either client: `python -m tests.matrix.child ... R|S|A|M [WAY]`.

It says as JSON what it raised, which notes that carries and which intent it names; where the call got is seen from
outside. With the way `stop` it stops itself between writing an intent down and sending it; with `handler`, SIGTERM
closes the client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from typing import Any

from minted_connect import AsyncMintedConnect, MintedConnect, intent_of
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Intent

# In development mode asyncio warns of slow callbacks, which a busy machine causes, on the stream that the test reads.
logging.getLogger("asyncio").setLevel(logging.ERROR)

CUSTOMER = "customer-1"

CALLS: dict[str, Any] = {
    "R": lambda m, b: m.customers.get(CUSTOMER),
    "S": lambda m, b: m.baskets.update_item(b, sku="MNTBAE0001", qty=3),
    "A": lambda m, b: m.baskets.add_item(b, sku="MNTBAE0013", qty=2),
    "M": lambda m, b: m.complete.buy(b, expected_total=b.paid_total),
}


class Stopping(SqliteJournal):
    """A journal that stops the process once an intent is written, as a debugger or a paused container does."""

    async def prepare(self, intent: Intent) -> None:
        await super().prepare(intent)
        os.kill(os.getpid(), signal.SIGSTOP)


async def asynchronous(effect: str, way: str, *credentials: str, **settings: Any) -> None:
    async with AsyncMintedConnect(*credentials, **settings) as minted:
        closing: list[asyncio.Future[None]] = []
        if way == "handler":
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: closing.append(asyncio.ensure_future(minted.aclose())))
        await CALLS[effect](minted, await minted.baskets.get_active(CUSTOMER))


def blocking(effect: str, way: str, *credentials: str, **settings: Any) -> None:
    with MintedConnect(*credentials, **settings) as minted:
        if way == "handler":
            signal.signal(signal.SIGTERM, lambda *_: minted.close())
        CALLS[effect](minted, minted.baskets.get_active(CUSTOMER))


def main(url: str, username: str, password: str, journal: str, flavour: str, effect: str, way: str = "") -> None:
    settings: dict[str, Any] = {"base_url": url, "journal": Stopping(journal) if way == "stop" else journal}
    raised: BaseException | None = None
    try:
        if flavour == "async":
            asyncio.run(asynchronous(effect, way, username, password, **settings))
        else:
            blocking(effect, way, username, password, **settings)
    except (Exception, KeyboardInterrupt) as error:
        raised = error
    notes: list[str] = []
    seen = raised
    while seen is not None:
        notes += getattr(seen, "__notes__", ())
        seen = seen.__cause__ or seen.__context__
    named = None if raised is None else intent_of(raised)
    said = {"raised": raised and type(raised).__name__, "notes": notes, "intent": named and named.id}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
