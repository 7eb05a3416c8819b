"""Runs a simulated day: the sandbox and the clock in this process, clients and reconciler in processes of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from minted_connect import AsyncMintedConnect
from minted_connect.audit import AuditReport, audit
from minted_connect.config import Options
from minted_connect.sandbox import Sandbox
from tests.completion.chaos.plan import SKUS
from tests.completion.chaos.witness import RequestObserver
from tests.completion.day.clock import BEAT, CountingSelector, LeadingClock, SharedTime
from tests.completion.day.databases import Database, open_database
from tests.completion.day.plan import (
    DAY,
    ORDERS_LAG,
    POLICY,
    READS_LAG,
    START,
    TIMEOUTS,
    Caps,
    Job,
    Settings,
)
from tests.completion.day.planted import plant
from tests.completion.day.result import Result
from tests.completion.plans import plan as plans
from tests.completion.plans.faults import random_faults
from tests.completion.processes import ROOT

_SHARE: Final = 0.5
"""Share of the faults of the plans."""
_RECONCILER: Final = 0
_WHILE: Final = 180.0
"""Seconds after which no purchase is recent."""


class Day:
    """One sandbox, one journal, one clock, and the processes that use them."""

    def __init__(
        self, settings: Settings, database: Database, folder: Path, selector: CountingSelector, sandbox: Sandbox
    ) -> None:
        self._settings, self._database, self._selector, self._sandbox = settings, database, selector, sandbox
        self._folder = folder
        self.clock: LeadingClock = sandbox.clock  # type: ignore[assignment]
        self._observer = RequestObserver(sandbox)
        self._faults = random_faults(sandbox, plans.Settings(seed=settings.seed))
        for scope in self._faults:
            scope.share *= _SHARE
        self._has_faults = self._is_moving = True
        self._has_ended = False
        """Whether all purchases have an outcome."""
        self._caps: Caps | None = None
        self._reconciler: Process | None = None
        self._is_settling = asyncio.Event()
        """Set when the reconciler has sent a request."""
        self._requests = 0.0
        self.result = Result(settings)

    def client_settings(self, journal: str | None = None) -> dict[str, Any]:
        """Return the arguments of a client in this process."""
        return {
            "username": self._sandbox.username,
            "password": self._sandbox.password,
            "base_url": self._sandbox.url,
            "journal": journal,
            "options": Options(clock=self.clock, completion=POLICY),
            "timeouts": TIMEOUTS,
        }

    async def run(self) -> None:
        began = time.monotonic()
        await self._prepare()
        self._tick()
        clients = [self._run_client(number) for number in range(self._settings.processes)]
        await self._start_reconciler()
        killing = asyncio.ensure_future(self._kill_reconcilers())
        outputs = await asyncio.gather(*clients)
        self._has_ended = True
        self._is_settling.set()
        await killing
        self._end_faults()
        await self._await_no_open_intents()
        await self._kill_reconciler()
        self._is_moving = False
        self.clock.move_to(self.clock.monotonic() + _WHILE)
        self.result.simulated = self.clock.monotonic()
        self.result.check_outcomes(outputs)
        intents, requests = self._database.intents(), self._sandbox.requests.total
        self.result.check_orders(self._sandbox.shop, self._observer, intents, self._caps, requests=requests)
        report = await self._audit(self._database.location)
        self.result.check_clean(report)
        self.result.seconds = time.monotonic() - began

    async def find_planted(self) -> None:
        """Plant five discrepancies, and check that an audit names these, and nothing else."""
        second = str(self._folder / "second.db")
        planted = await plant(self._sandbox.shop, self.clock, self._database, self.client_settings, second)
        self.clock.move_to(self.clock.monotonic() + _WHILE)
        self.result.check_planted(await self._audit(self._database.location, second), planted)

    async def _prepare(self) -> None:
        async with AsyncMintedConnect(**self.client_settings()) as minted:
            for customer in [*self._settings.customers, *SKUS]:
                await minted.customers.create(customer, firstname="Brant", lastname="Ankunding")
            prices = {sku: (await minted.baskets.add_item(sku, sku=sku)).paid_total for sku in SKUS}
        self._caps = self._settings.caps(prices)

    def _tick(self) -> None:
        if self._has_faults:
            for scope in self._faults:
                self.result.faults.update(fault.kind for fault in scope.planned if fault.hits)
                scope.renew(requests=40)
        if not self._is_moving:
            return
        if self._reconciler is not None and (requests := self.clock.slot(_RECONCILER).mark) != self._requests:
            self._requests = requests
            self._is_settling.set()
        self.clock.move_if_idle(self._selector)
        asyncio.get_running_loop().call_later(BEAT, self._tick)

    def _end_faults(self) -> None:
        self._has_faults = False
        for scope in self._faults:
            self.result.faults.update(fault.kind for fault in scope.planned if fault.hits)
            scope.remove_all()

    def _job(self, name: str, slot: int, caps: Caps | None = None, part: int = 0) -> Job:
        shared, sandbox = str(self._folder / "clock"), self._sandbox
        credentials = (sandbox.url, sandbox.username, sandbox.password)
        return Job(self._settings, name, slot, shared, *credentials, self._database.location, caps, part)

    async def _start(self, module: str, job: Job) -> Process:
        self.clock.add(job.slot)
        return await create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", f"tests.completion.day.{module}", job.dumps()),
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=2**24,
        )

    async def _run_client(self, number: int) -> dict[str, Any]:
        job = self._job(f"client {number}", number + 1, self._caps, number)
        process = await self._start("worker", job)
        try:
            output, problems = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        self.clock.remove(job.slot)
        if process.returncode or problems:
            self.result.violations.append(f"a client ended with {process.returncode}: {problems.decode()}")
        loaded: dict[str, Any] = json.loads(output or '{"outcomes": {}, "errors": {}}')
        return loaded

    async def _start_reconciler(self) -> None:
        self._reconciler = await self._start("reconciler", self._job("reconciler", _RECONCILER))

    async def _kill_reconciler(self) -> None:
        process = self._reconciler
        assert process is not None
        if process.returncode is None:
            process.kill()
        _, problems = await process.communicate()
        if process.returncode != -signal.SIGKILL or problems:
            self.result.violations.append(f"a reconciler ended with {process.returncode}: {problems.decode()}")
        self.result.reconciled += int(self.clock.slot(_RECONCILER).count)
        self.clock.remove(_RECONCILER)
        self._reconciler = None

    async def _kill_reconcilers(self) -> None:
        """Kill the reconciler at random moments, while it is settling intents, and replace it."""
        draw = self._settings.random("kills")
        for moment in sorted(draw.uniform(0.05, 0.8) * DAY for _ in range(self._settings.kills)):
            await self.clock.sleep(max(moment - self.clock.monotonic(), 0.0))
            self._is_settling.clear()
            while not self._has_unknown():
                if self._has_ended:
                    return
                self._is_settling.clear()
                await self._is_settling.wait()
            await self._kill_reconciler()
            await self._start_reconciler()
            self.result.kills += 1

    def _has_unknown(self) -> bool:
        """Return whether the reconciler has just sent a request, and has intents to settle."""
        return self._is_settling.is_set() and any(one.state == "unknown" for one in self._database.intents())

    async def _await_no_open_intents(self) -> None:
        last = self.clock.monotonic() + DAY / 4
        while any(intent.is_open for intent in self._database.intents()) and self.clock.monotonic() < last:
            await self.clock.sleep(60.0)

    async def _audit(self, *journals: str) -> AuditReport:
        end = START + timedelta(seconds=self.clock.monotonic())
        return await audit(self.client_settings(), start=START.date(), end=end.date(), journals=journals)


async def run(settings: Settings, selector: CountingSelector) -> Result:
    """Run a day, plant discrepancies, and return the figures and violations."""
    with open_database(settings) as (database, folder):
        clock = LeadingClock(SharedTime(folder / "clock"), START, database.move_clock)
        sandbox = Sandbox(clock=clock, seed=settings.seed, reads_lag=READS_LAG, orders_lag=ORDERS_LAG)
        async with sandbox:
            day = Day(settings, database, folder, selector, sandbox)
            await day.run()
            await day.find_planted()
            return day.result
