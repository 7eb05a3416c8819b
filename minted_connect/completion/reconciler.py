"""Reconciles the open intents of an account in the background, in one process per journal. Sends no completion."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self

import attrs

from minted_connect.clock import SYSTEM_CLOCK
from minted_connect.completion.lease import RESERVED, Lease, LeaseLost
from minted_connect.completion.read_schedule import MAX_WAIT, ReadSchedule, with_jitter
from minted_connect.completion.reconcile_all import reconcile_all
from minted_connect.completion.settlement import Settlement, describe_error
from minted_connect.core.api_client import ApiClient
from minted_connect.core.cancellation import cancel_and_wait
from minted_connect.core.event_loop import check_asyncio
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import ClientClosedError, CompletionRejected, NotExecuted, OutcomeUnknown
from minted_connect.journal.claims import as_claim_journal
from minted_connect.journal.protocol import ReferenceKey
from minted_connect.models import Intent, ReconcileResult
from minted_connect.otel import OpenTelemetry

__all__ = ["Reconciler", "ReconcilerStatus"]

_logger = logging.getLogger("minted_connect.completion")

_CONCURRENCY: Final = 4
"""Number of intents that are read at a time."""
_MAX_DOUBLINGS: Final = 32
"""Keeps the wait a finite float, however long the failures last."""
_PROBE: Final = (("page", "1"), ("total", "5"))
"""Query of the request that shows before a round whether the server and the credentials work."""


@attrs.frozen(kw_only=True)
class ReconcilerStatus:
    """The state of a reconciler at one moment."""

    state: Literal["active", "standing_by", "backing_off", "closed"] = "closed"
    """`active`: this process settles the open intents. `standing_by`: another process does. `backing_off`: the last
    round failed, and the next one begins at `next_round_at`. `closed`: not opened yet, or closed."""
    open_intents: int | None = None
    """Open intents of the account after the last round; None before the first one."""
    rounds: int = 0
    """Number of rounds that did not fail."""
    settled: int = 0
    """Number of intents that were settled."""
    failures: int = 0
    """Number of rounds in a row that failed."""
    last_round_at: datetime | None = None
    """End of the last round that did not fail, by the client's clock; None before the first one."""
    next_round_at: datetime | None = None
    """Start of the next round, by the client's clock; None while standing by or closed."""
    last_error: Exception | None = None
    """Error of the last round; None if it did not fail."""

    @property
    def is_active(self) -> bool:
        """Whether this process settles the open intents."""
        return self.state == "active"


class Reconciler:
    """Reconciles open intents in the background: `async with complete.reconciler() as reconciler: ...`.

    Create one with `complete.reconciler`, which describes the arguments.
    """

    def __init__(
        self,
        api: ApiClient,
        settlement: Settlement,
        find_pending: Callable[[], Awaitable[list[Intent]]],
        *,
        interval: float,
        fence: bool,
        budget: float | None,
        lease: float,
        on_result: Callable[[ReconcileResult], object] | None,
        on_error: Callable[[Exception], object] | None,
        on_status: Callable[[ReconcilerStatus], object] | None,
    ) -> None:
        options = api.settings.options
        if not fence:
            # Without a fence it has nothing to change: the client refuses everything but reads.
            api = api.with_settings(attrs.evolve(api.settings, options=attrs.evolve(options, read_only=True)))
        self._api = api
        self._settlement = settlement
        self._find_pending = find_pending
        self._interval = interval
        self._fence = fence
        self._budget = budget
        self._on_result = on_result
        self._on_error = on_error
        self._on_status = on_status
        journal = as_claim_journal("complete.reconciler", settlement.journal)
        # Only the account itself: a client without its `journal_account` settles other intents, under another lease.
        key = ReferenceKey(RESERVED, settlement.owner, settlement.owner.account)
        self._lease = Lease(journal, key, lease, api.clock.wall)
        self._random = options.random
        self._telemetry = options.on_attempt if isinstance(options.on_attempt, OpenTelemetry) else None
        self._schedule = ReadSchedule(interval, options.random)
        self._status = ReconcilerStatus()
        self._reported: type[Exception] | None = None
        """Class of the last error that was reported, until a round does not fail."""
        self._pid = os.getpid()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        """Whether this process settles the open intents; otherwise another one does, or the last round failed."""
        return self.status.is_active

    @property
    def status(self) -> ReconcilerStatus:
        """State, counts and last round at this moment."""
        is_fork = os.getpid() != self._pid
        return attrs.evolve(self._status, state="closed", next_round_at=None) if is_fork else self._status

    async def __aenter__(self) -> Self:
        """Start to reconcile; does not wait for the first round.

        Raises:
            ClientClosedError: if the reconciler was opened before, or if the client is closed, was forked, or runs on
                another event loop.
            ConfigurationError: if no asyncio event loop is running.
        """
        if self._task is not None:
            raise ClientClosedError("a reconciler can be opened only once: make another one")
        check_asyncio()
        self._api.check_usable()
        # An empty context: in the caller's, each request would belong to the span that opened the reconciler.
        self._task = asyncio.create_task(self._run(), name="minted_connect.reconciler", context=Context())
        self._task.add_done_callback(self._end)
        self._settlement.on_close.add(self.aclose)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the round in progress and release the lease, so that another process takes over. Idempotent."""
        task = self._task
        # The task of another event loop, or of the process that this one was forked from, does not end here.
        if task is not None and os.getpid() == self._pid and task.get_loop() is asyncio.get_running_loop():
            await cancel_and_wait([task])

    def _end(self, task: asyncio.Task[None]) -> None:
        self._settlement.on_close.discard(self.aclose)
        if not task.cancelled():
            task.exception()  # marks it as retrieved
        # Also if the task has ended before its first state.
        self._status = attrs.evolve(self._status, state="closed", next_round_at=None)
        _notify("on_status", self._on_status, self._status)

    async def _run(self) -> None:
        while True:
            try:
                self._api.check_usable()
                await self._acquire()
                await self._lead()
            except LeaseLost:
                _logger.warning("the reconciler has lost its lease: another process may settle the open purchases now")
            except ClientClosedError as error:
                self._report(error)
                self._status = attrs.evolve(self._status, last_error=error)
                return
            except Exception as error:  # noqa: BLE001 - no failure may end the task
                await self._back_off(error)

    async def _acquire(self) -> None:
        """Stand by until this process has the lease."""
        while (wait := await self._lease.acquire()) > 0:
            self._record_open([])  # the process with the lease records them
            self._update("standing_by", next_round_at=None)
            # In real time, by which the lease expires.
            await SYSTEM_CLOCK.sleep(wait * (0.5 + 0.5 * self._random()))

    async def _lead(self) -> None:
        """Run rounds until one fails or the lease is lost; then release the lease.

        A process whose rounds fail does not keep the lease, because those of another one may succeed.
        """
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(work, name=f"minted_connect.reconciler.{name}")
            for name, work in (("rounds", self._run_rounds()), ("lease", self._lease.keep()))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                await cancel_and_wait(tasks)
            finally:
                errors = [task.exception() for task in tasks if not task.cancelled()]
                await self._lease.release()
        for error in sorted(filter(None, errors), key=lambda one: not isinstance(one, LeaseLost)):
            raise error

    async def _run_rounds(self) -> None:
        clock = self._api.clock
        self._update("active")
        while True:
            self._api.check_usable()
            began = clock.monotonic()
            await self._run_round()
            due = began + self._interval
            next_round_at = clock.wall() + timedelta(seconds=max(due - clock.monotonic(), 0.0))
            self._update("active", next_round_at=next_round_at)
            await self._api.sleep_until(due)
            # A process that was stopped meanwhile may have lost the lease.
            await self._lease.renew()

    async def _run_round(self) -> None:
        clock = self._api.clock
        pending = await self._find_pending()
        due = self._schedule.select(pending, clock.monotonic(), clock.wall())
        settled: set[str] = set()
        if due:
            # Fails with the error of the server, before each intent is read for as long as `budget`.
            await self._api.exchange(Request(OPERATIONS["orders.page"], query=_PROBE), bypass_limits=True)
            results = await reconcile_all(
                self._api,
                self._settlement,
                due,
                budget=self._api.completion_policy.reconcile_budget if self._budget is None else self._budget,
                concurrency=_CONCURRENCY,
                fence=self._fence,
                on_result=self._handle_result,
            )
            settled = {result.intent.id for result in results if _is_settled(result)}
            for intent in due:
                if intent.id not in settled:
                    self._schedule.postpone(intent.id, clock.monotonic())
        left = [intent for intent in pending if intent.id not in settled]
        self._record_open(left)
        self._reported = None
        self._update(
            "active",
            open_intents=len(left),
            rounds=self._status.rounds + 1,
            failures=0,
            last_round_at=clock.wall(),
            last_error=None,
        )

    def _handle_result(self, result: ReconcileResult) -> None:
        if _is_settled(result):
            self._status = attrs.evolve(self._status, settled=self._status.settled + 1)
            _notify("on_result", self._on_result, result)
        elif result.error is not None and not isinstance(result.error, OutcomeUnknown):
            self._report(result.error)

    async def _back_off(self, error: Exception) -> None:
        """Wait until the next round after one that failed."""
        failures, clock = self._status.failures + 1, self._api.clock
        wait = min(self._interval * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), max(MAX_WAIT, self._interval))
        retry_after: float | None = getattr(error, "retry_after", None)
        wait = max(with_jitter(wait, self._random), retry_after or 0.0)
        self._report(error)
        next_round_at = clock.wall() + timedelta(seconds=wait)
        self._update("backing_off", failures=failures, last_error=error, next_round_at=next_round_at)
        await self._api.sleep_until(clock.monotonic() + wait)

    def _report(self, error: Exception) -> None:
        """Report an error, unless the last one that was reported has the same class."""
        if type(error) is not self._reported:
            self._reported = type(error)
            _logger.warning("the reconciler failed, and continues later: %s", describe_error(error))
            _notify("on_error", self._on_error, error)

    def _record_open(self, intents: Sequence[Intent]) -> None:
        if self._telemetry is not None:
            self._telemetry.record_open_intents(intents)

    def _update(self, state: Literal["active", "standing_by", "backing_off"], **changes: Any) -> None:
        """Change the status, and report it if the state changes."""
        before, self._status = self._status, attrs.evolve(self._status, state=state, **changes)
        if before.state != state:
            _logger.info("the reconciler is %s", state.replace("_", " "))
            _notify("on_status", self._on_status, self._status)


def _is_settled(result: ReconcileResult) -> bool:
    return result.completion is not None or isinstance(result.error, CompletionRejected | NotExecuted)


def _notify(name: str, hook: Callable[[Any], object] | None, value: object) -> None:
    """Call a hook. Log an exception that it raises: the hook must not end the reconciler."""
    if hook is None:
        return
    try:
        hook(value)
    except (Exception, asyncio.CancelledError):
        _logger.exception("%s of complete.reconciler raised", name)
