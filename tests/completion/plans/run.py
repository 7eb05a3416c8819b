"""Runs a plan: starts its processes again and again, kills them, and compares orders, journal and outcomes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from minted_connect import AsyncMintedConnect
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.protocol import ReferenceJournal, ReferenceKey
from minted_connect.models import Intent
from tests.completion.plans.plan import TIMEOUTS, Purchase, Settings
from tests.completion.plans.result import Result
from tests.completion.processes import ROOT
from tests.support import postgres

_SECONDS_FOR_ONE: Final = 0.15
"""Seconds that a start is expected to need for one purchase."""
_SHORTEST: Final = 0.5
"""Seconds that are always among the possible moments of a kill."""
_LAST_START: Final = 300.0
"""Maximum seconds of the last start."""


class Run:
    """One sandbox, one journal, and the processes that use both."""

    def __init__(self, settings: Settings, journal: str, server: Process) -> None:
        self._settings, self._journal, self._server = settings, journal, server
        self._credentials: tuple[str, str, str] = ("", "", "")
        """URL, user name and password."""
        self.result = Result(settings)

    async def run(self) -> None:
        began = time.monotonic()
        self._credentials = await _read(self._server)
        await self._register()
        last = self._settings.starts - 1
        for start in range(last):
            draw = self._settings.random(f"kills {start}")
            longest = _SHORTEST + 2 * _SECONDS_FOR_ONE * len(self._settings.purchases()) / self._settings.starts
            moments = [draw.uniform(0.0, longest) for _ in range(self._settings.processes)]
            await self._start(start, moments)
            self.result.orders_by_start.append(len((await self._report())["orders"]))
        outcomes = await self._start(last, [_LAST_START] * self._settings.processes)
        report = await self._report()
        self.result.orders_by_start.append(len(report["orders"]))
        await self._check(report, outcomes)
        self.result.seconds = time.monotonic() - began

    def _client(self, journal: str | None) -> AsyncMintedConnect:
        url, username, password = self._credentials
        options = self._settings.options()
        return AsyncMintedConnect(username, password, base_url=url, journal=journal, options=options, timeouts=TIMEOUTS)

    async def _register(self) -> None:
        async with self._client(None) as minted:
            for customer in dict.fromkeys(purchase.customer for purchase in self._settings.purchases()):
                await minted.customers.create(customer, firstname="Brant", lastname="Ankunding")

    async def _report(self) -> dict[str, Any]:
        await _continue(self._server)
        report: dict[str, Any] = await _read(self._server)
        return report

    async def _start(self, start: int, moments: list[float]) -> list[dict[str, Any]]:
        """Start all processes at once, kill each at its moment, and return the outcomes of those that ended before."""
        workers = await asyncio.gather(
            *(
                _start_process("worker", self._settings.dumps(), f"{start}/{number}", *self._credentials, self._journal)
                for number in range(len(moments))
            )
        )
        for worker in workers:
            assert await _read(worker) == "ready"
        for worker in workers:
            await _continue(worker)
        outputs = await asyncio.gather(*map(self._end, workers, moments))
        return [outcomes for outcomes in outputs if outcomes is not None]

    async def _end(self, worker: Process, moment: float) -> dict[str, Any] | None:
        """Kill a process at its moment; return its outcomes if it ended before."""
        ended = asyncio.ensure_future(worker.communicate())
        await asyncio.wait([ended], timeout=moment)
        if not ended.done():
            worker.kill()
        output, problems = await ended
        self.result.processes += 1
        self.result.killed += worker.returncode == -signal.SIGKILL
        if worker.returncode not in {0, -signal.SIGKILL} or problems:
            self.result.violations.append(f"a process ended with {worker.returncode}: {problems.decode()}")
        messages = [json.loads(line) for line in output.splitlines()]
        self.result.violations += [f"logged: {message['logged']}" for message in messages if "logged" in message]
        return next((message["outcomes"] for message in messages if "outcomes" in message), None)

    async def _check(self, report: dict[str, Any], outcomes: list[dict[str, Any]]) -> None:
        self.result.orders = len(report["orders"])
        self.result.requests, self.result.completions = report["requests"], report["completions"]
        self.result.faults = Counter(report["faults"])
        for intent_id in report["posted_twice"]:
            self.result.violations.append(f"intent {intent_id} was posted twice")
        if len(outcomes) < self._settings.processes:
            self.result.violations.append(f"{self._settings.processes - len(outcomes)} processes did not end")
        async with self._client(self._journal) as minted:
            pending = {intent.reference for intent in await minted.complete.pending()}
        self.result.check_orders(report["orders"])
        for purchase in self._settings.purchases():
            whose = (purchase.customer, purchase.items)
            orders = [order for order in report["orders"] if (order["customer"], order["items"]) == whose]
            intents = await self._intents(purchase)
            labels = {outcome[purchase.reference] for outcome in outcomes}
            self.result.check(purchase, orders, intents, labels, is_pending=purchase.reference in pending)

    async def _intents(self, purchase: Purchase) -> list[Intent]:
        url, username, _ = self._credentials
        owner = account_of_user(url, username, None)
        journal = open_journal(self._journal)
        assert isinstance(journal, ReferenceJournal)
        try:
            return await journal.find_by_reference(ReferenceKey(purchase.reference, owner, owner.account))
        finally:
            await journal.aclose()


async def run(settings: Settings) -> Result:
    """Run the plan, and return its figures and violations."""
    with _journal_location(settings) as journal:
        async with _server_process(settings) as server:
            started = Run(settings, journal, server)
            await started.run()
            return started.result


@contextmanager
def _journal_location(settings: Settings) -> Generator[str]:
    if settings.journal == "postgres":
        with postgres.running() as cluster, cluster.database() as database:
            yield database.url
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "journal.db")


@asynccontextmanager
async def _server_process(settings: Settings) -> AsyncGenerator[Process]:
    server = await _start_process("server", settings.dumps())
    try:
        yield server
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def _start_process(module: str, *arguments: str) -> Process:
    return await create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", f"tests.completion.plans.{module}", *arguments),
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE if module == "worker" else None,
        limit=2**24,
    )


async def _continue(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()


async def _read(process: Process) -> Any:
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, await process.communicate()
    return json.loads(line)
