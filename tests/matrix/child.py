"""Makes one call in a separate process, with either client: `python -m tests.matrix.child ... R|S|A|M [OPTION]`.

Prints the class of the raised exception, its notes and the id of its intent as JSON. With the option `stop`, the
process stops itself after an intent is written and before it is sent; with `handler`, SIGTERM closes the client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import threading
from typing import Any

from minted_connect import AsyncMintedConnect, MintedConnect, intent_of
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Intent

# In development mode asyncio logs slow callbacks, which a busy machine causes, to stderr, which the test compares.
logging.getLogger("asyncio").setLevel(logging.ERROR)

CUSTOMER = "customer-1"

CALLS: dict[str, Any] = {
    "R": lambda m, b: m.customers.get(CUSTOMER),
    "S": lambda m, b: m.baskets.update_item(b, sku="MNTBAE0001", qty=3),
    "A": lambda m, b: m.baskets.add_item(b, sku="MNTBAE0013", qty=2),
    "M": lambda m, b: m.complete.buy(b, expected_total=b.paid_total),
}


class StoppingJournal(SqliteJournal):
    """A journal that stops the process once an intent is written, as a debugger or a paused container does."""

    async def prepare(self, intent: Intent) -> None:
        await super().prepare(intent)
        # To this thread: after `os.kill` it could run on, and send, until another thread has stopped the process.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


async def call_async(effect: str, option: str, *credentials: str, **settings: Any) -> None:
    async with AsyncMintedConnect(*credentials, **settings) as minted:
        closing: list[asyncio.Future[None]] = []
        if option == "handler":
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: closing.append(asyncio.ensure_future(minted.aclose())))
        await CALLS[effect](minted, await minted.baskets.get_active(CUSTOMER))


def call_blocking(effect: str, option: str, *credentials: str, **settings: Any) -> None:
    with MintedConnect(*credentials, **settings) as minted:
        if option == "handler":
            signal.signal(signal.SIGTERM, lambda *_: minted.close())
        CALLS[effect](minted, minted.baskets.get_active(CUSTOMER))


def main(url: str, username: str, password: str, journal: str, flavour: str, effect: str, option: str = "") -> None:
    settings: dict[str, Any] = {"base_url": url, "journal": StoppingJournal(journal) if option == "stop" else journal}
    raised: BaseException | None = None
    try:
        if flavour == "async":
            asyncio.run(call_async(effect, option, username, password, **settings))
        else:
            call_blocking(effect, option, username, password, **settings)
    except (Exception, KeyboardInterrupt) as caught:
        raised = caught
    notes: list[str] = []
    error = raised
    while error is not None:
        notes += getattr(error, "__notes__", ())
        error = error.__cause__ or error.__context__
    intent = None if raised is None else intent_of(raised)
    result = {"raised": raised and type(raised).__name__, "notes": notes, "intent": intent and intent.id}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
