"""How a call flows: request -> retries -> one attempt -> envelope -> domain object.

Every resource and every completion sends through here; nothing else touches the transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, TypeVar

import attrs

from minted_connect.clock import Clock, ElapsedTime, sleep_until
from minted_connect.config import CompletionPolicy
from minted_connect.core import converter, exact_json
from minted_connect.core.failures import attach_request, may_have_executed, needs_read_back
from minted_connect.core.headers import age_seconds
from minted_connect.core.pool import PoolKind, PreparedRequest, RequestProgress, SendLimit
from minted_connect.core.read_back import read_back_offsets
from minted_connect.core.request import Effect, Request
from minted_connect.core.response import RawResponse, Response, parse_response
from minted_connect.core.retry import RETRY_COST, TIMEOUT_COST, pause_before_retry, with_retries
from minted_connect.core.state import ClientSettings, ClientState
from minted_connect.core.watch import watched
from minted_connect.errors import (
    APIError,
    BudgetExhausted,
    ClientClosedError,
    ConnectFailed,
    IntegrityError,
    MintedConnectError,
    NotSent,
    Phase,
    ProtocolError,
    RequestTimeout,
    TransportError,
)

__all__ = ["ApiClient"]

_logger = logging.getLogger("minted_connect")
_T = TypeVar("_T")

API_VERSION = "3"
"""What the vendor calls the latest `api-version` (documented)."""


class ApiClient:
    """Sends requests with one set of settings."""

    def __init__(self, state: ClientState, settings: ClientSettings, user_agent: str, *, hurried: bool = False) -> None:
        self.state = state
        self.settings = settings
        self._hurried = hurried
        self.clock: Clock = settings.options.clock
        self._user_agent = user_agent
        self._headers = {
            "Accept": "application/json",
            "Accept-Language": settings.language,
            "User-Agent": settings.options.user_agent or user_agent,
            "api-version": API_VERSION,
            "x-client-id": settings.client_id,
        }
        self._headers_with_body = {**self._headers, "Content-Type": "application/json"}

    def with_settings(self, settings: ClientSettings) -> ApiClient:
        """Return a sibling: other settings, everything else shared."""
        return ApiClient(self.state, settings, self._user_agent, hurried=self._hurried)

    def hurry(self) -> ApiClient:
        """Return a sibling for the reads that a completion begins with, which everyday ones must not hold up."""
        return ApiClient(self.state, self.settings, self._user_agent, hurried=True)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, as the sandbox is."""
        return self.state.transport.is_loopback

    @property
    def elapsed(self) -> ElapsedTime:
        """The clock that runs on while the machine sleeps."""
        return self.state.elapsed

    def server_time(self) -> datetime:
        """Return the time by the server's clock."""
        return self.state.server_stats.server_time(self.clock.wall(), self.elapsed())

    def latest_server_time(self) -> datetime:
        """Return the latest time that the server's clock may show."""
        return self.server_time() + self.state.server_stats.date_error

    async def sleep_until(self, due: float) -> None:
        """Sleep until a monotonic time, or until the client is closed."""
        await sleep_until(self.clock, due, self.state.transport.ended)

    @property
    def completion_policy(self) -> CompletionPolicy:
        """The policy in force. Delays that the caller left at their defaults come from a server that knows them."""
        policy, source = self.settings.options.completion, self.state.lag_source
        if source is None:
            return policy
        default = CompletionPolicy()
        return attrs.evolve(
            policy,
            orders_lag=source.reads_behind if policy.orders_lag == default.orders_lag else policy.orders_lag,
            latest_landing=source.latest_landing if policy.latest_landing is None else policy.latest_landing,
        )

    @property
    def account(self) -> str:
        """What tells this server and user from all others, without naming them."""
        return self.state.transport.account

    def check_usable(self) -> None:
        """Check that this process and event loop may use the client, before waiting for what goes on in its own.

        Raises:
            ClientClosedError: closed, inherited through a fork, or opened on another event loop.
        """
        self.state.transport.check_usable()

    async def send(
        self,
        request: Request,
        returns: type[_T],
        *,
        read_back: Callable[[MintedConnectError], Awaitable[_T]] | None = None,
        lock: Hashable = None,
        check: Callable[[_T], Sequence[str]] | None = None,
    ) -> _T:
        """Send and return the answer's `data` as `returns`.

        Args:
            request: What to send.
            returns: What the answer is.
            read_back: Asked, instead of sending again, when a change may or may not have happened: it returns the
                state if the change is there, and raises otherwise (the error it was given, if it has nothing better).
            lock: The id of the customer whose baskets or data are changed: such changes go one after the other.
            check: Says what in the answer is about somebody else; what was read back is not asked.

        Raises:
            IntegrityError: something is.
        """
        if lock is None:
            return self._checked(await self.exchange(request), returns, request, check)

        async def change() -> _T:
            return self._checked(await self.exchange(request), returns, request, check)

        return await self._change(change, read_back, lock)

    def _checked(
        self, reply: Response, returns: type[_T], request: Request, check: Callable[[_T], Sequence[str]] | None
    ) -> _T:
        made = self.structure(reply.data, returns, request, reply)
        if check is not None and (wrong := tuple(check(made))):
            text = f"the response belongs to another customer or basket: {'; '.join(wrong[:3])}"
            error = IntegrityError(text, wrong, reply.status, reply.request_id)
            raise attach_request(error, request.info, attempts=reply.attempts)
        return made

    async def run(
        self, request: Request, *, read_back: Callable[[MintedConnectError], Awaitable[None]], lock: Hashable
    ) -> None:
        """Make a change, and take no notice of the answer's `data`; the arguments are those of `send`."""

        async def change() -> None:
            await self.exchange(request)

        await self._change(change, read_back, lock)

    async def _change(
        self,
        change: Callable[[], Awaitable[_T]],
        read_back: Callable[[MintedConnectError], Awaitable[_T]] | None,
        lock: Hashable,
    ) -> _T:
        end = self.clock.monotonic() + (self.settings.deadline or self.settings.timeouts.total)
        async with self.turn(lock):
            try:
                return await change()
            except MintedConnectError as error:
                if read_back is None or not needs_read_back(error):
                    raise
                failure = error
            return await self._read_back(failure, read_back, end)

    async def _read_back(
        self, failure: MintedConnectError, read_back: Callable[[MintedConnectError], Awaitable[_T]], end: float
    ) -> _T:
        """Look for a change until it shows, or until reads that are behind would show it, or until `end`."""
        policy, clock = self.completion_policy, self.clock
        started = clock.monotonic()
        limit = policy.settle_time if policy.inline_looks is None else min(policy.inline_looks, policy.settle_time)
        # A refusal that is believed everywhere else deserves one look, not the wait for a replica.
        offsets = read_back_offsets(policy.settle_time) if may_have_executed(failure) else (0.0,)
        for offset in offsets:
            if offset and (offset > limit or started + offset > end):
                break
            await self.sleep_until(started + offset)
            try:
                return await read_back(failure)
            except MintedConnectError as error:
                if error is not failure:
                    raise
        raise failure

    def turn(self, thing: Hashable, patience: float | None = None) -> AbstractAsyncContextManager[None]:
        """Return the turn to change `thing`, to be entered; waiting for it takes no longer than a call may.

        Args:
            thing: The customer's id: everything that can touch a customer's basket takes the same turn.
            patience: Seconds to wait, instead of those of a call.

        Raises:
            NotSent: on entering, when it takes longer.
            ClientClosedError: closed, forked, or on another event loop, where that turn never comes.
        """
        self.check_usable()
        return self.state.locks.hold(thing, patience or self.settings.deadline or self.settings.timeouts.total)

    async def send_optional(
        self, request: Request, returns: type[_T], *, check: Callable[[_T], Sequence[str]] | None = None
    ) -> _T | None:
        """Send and return the answer's `data` as `returns`, or None where it is null; `check` is that of `send`."""
        reply = await self.exchange(request)
        return None if reply.data is None else self._checked(reply, returns, request, check)

    def structure(
        self, data: Any, returns: type[_T], request: Request | None = None, reply: Response | None = None
    ) -> _T:
        """Return the data of an answer as `returns`; `request` and `reply` only serve the error.

        Raises:
            ProtocolError: it is not of that shape; `.problems` names each path.
        """
        try:
            return converter.structure(data, returns, elapsed=self.elapsed, sent_at=reply.sent_at if reply else None)
        except converter.Unfit as unfit:
            problems = unfit.problems
        error = ProtocolError(
            f"the answer is not of the expected shape: {'; '.join(problems[:3])}",
            problems,
            reply.status if reply else 0,
            reply.request_id if reply else None,
        )
        if request is not None:
            attach_request(error, request.info, attempts=reply.attempts if reply else 1)
        raise error

    async def exchange(
        self,
        request: Request,
        *,
        not_after: SendLimit | None = None,
        progress: RequestProgress | None = None,
        bypass_limits: bool = False,
    ) -> Response:
        """Send, again where the rules allow it, and return the opened envelope.

        Args:
            request: What to send.
            not_after: When it is too late to send (the end of a price lock).
            progress: Keeps the phase that the request reached, also through a cancellation.
            bypass_limits: Use the recovery pool and bypass rate limiter, breaker and retry budget, because the
                incident that is investigated may have exhausted them.

        Raises:
            MintedConnectError: whatever the last attempt raised, with `attempts` and `elapsed` filled in.
        """
        call = _Call(self, request, progress or RequestProgress(), not_after, bypass_limits)
        try:
            reply = await with_retries(call.attempt, call.decide, self.clock.sleep)
        except asyncio.CancelledError as cancelled:
            if request.effect is Effect.NON_IDEMPOTENT and call.progress.phase is not Phase.NOT_SENT:
                where = f"{request.operation.method} {request.route}"
                cancelled.add_note(f"{where} may have been carried out: look before you repeat it")
            raise
        except NotSent:
            # True of the last attempt, and not of the call: an earlier one may have been carried out.
            if call.landed is None or request.effect is Effect.READ:
                raise
            doubt = call.landed
        else:
            if call.attempts == 1 and not bypass_limits:
                self.state.budget.refund()
            return reply
        raise doubt

    def prepare(self, request: Request, *, bypass_limits: bool) -> PreparedRequest:
        """Return the request as it goes out."""
        options, operation = self.settings.options, request.operation
        body = b"" if request.body is None else exact_json.dumps(request.body)
        headers = self._headers_with_body if body else self._headers
        money = PoolKind.COMPLETION if operation.effect is Effect.COMPLETE else PoolKind.DEFAULT
        return PreparedRequest(
            operation.method,
            request.target(options.paths),
            request.route,
            {**headers, **request.headers} if request.headers else headers,
            body,
            PoolKind.RECOVERY if bypass_limits else money,
            self._hurried,
        )


class _Call:
    """One call on its way through its attempts."""

    def __init__(
        self,
        api: ApiClient,
        request: Request,
        progress: RequestProgress,
        not_after: SendLimit | None,
        bypass_limits: bool,
    ) -> None:
        timeouts, clock = api.settings.timeouts, api.clock
        self._api, self._shared, self._options = api, api.state, api.settings.options
        self._request, self._not_after = request, not_after
        self._guarded = not bypass_limits
        self._prepared = api.prepare(request, bypass_limits=bypass_limits)
        total = timeouts.complete_total if self._prepared.lane is PoolKind.COMPLETION else timeouts.total
        self._started = clock.monotonic()
        self._deadline = self._started + (api.settings.deadline or total)
        self.progress = progress
        progress.elapsed = api.elapsed
        if not_after is not None:
            progress.is_too_late = lambda: not_after.is_over(api.elapsed(), api.latest_server_time())
        self.attempts = 0
        self.landed: MintedConnectError | None = None
        """How an earlier attempt failed that may have been carried out."""

    async def attempt(self) -> Response:
        """Send once, and open the answer."""
        self.attempts += 1
        if (hook := self._options.on_attempt) is None:
            return await self._attempt()
        return await watched(
            self._attempt,
            hook,
            request=self._request,
            server=self._shared.transport.origin,
            number=self.attempts,
            clock=self._api.clock,
            progress=self.progress,
        )

    async def _attempt(self) -> Response:
        try:
            raw, took = await self._send()
            reply = parse_response(
                raw,
                request=self._request,
                attempts=self.attempts,
                max_depth=self._options.max_depth,
                keep_body=self._options.keep_error_bodies,
                secrets=self._shared.transport.secrets,
                sent_at=self.progress.sent_at,
                now=self._api.clock.wall,
            )
        except MintedConnectError as error:
            if not isinstance(error, ClientClosedError):
                elapsed = self._api.clock.monotonic() - self._started
                attach_request(error, self._request.info, attempts=self.attempts, elapsed=elapsed)
            if isinstance(error, APIError):
                error.after_unknown = self.landed is not None
            raise
        clock, date = self._api.clock, reply.headers.get("Date", "")
        # A cache keeps the `Date` of the response that it stored, and states its age (RFC 9111 section 5.1).
        took += age_seconds(reply.headers.get("Age", ""))
        self._shared.server_stats.record_date(date, clock.wall(), self._api.elapsed(), took)
        return reply

    async def _send(self) -> tuple[RawResponse, float]:
        """Send one attempt; return the response and the seconds it took."""
        clock, state, prepare = self._api.clock, self._shared, self._prepared
        if self._guarded and state.limiter is not None:
            await state.limiter.wait(self._deadline - clock.monotonic())
        breaker = state.breaker if self._guarded else None
        probe = breaker is not None and breaker.enter()
        failed: bool | None = None
        started = clock.monotonic()
        try:
            left = self._deadline - started
            raw = await state.transport.attempt(prepare, self._api.settings.timeouts, left, self.progress)
            failed = raw.status >= 500  # noqa: PLR2004 - the class of statuses that blame the server
            took = clock.monotonic() - started
            state.server_stats.record_latency(took)
        except (ConnectFailed, TransportError, ProtocolError):
            failed = True
            raise
        finally:
            if breaker is not None:
                breaker.leave(probe=probe, failed=failed)
        if _logger.isEnabledFor(logging.DEBUG):
            text = "%s %s: %d in %.1f ms, attempt %d"
            _logger.debug(text, prepare.method, prepare.route, raw.status, took * 1e3, self.attempts)
        return raw, took

    def decide(self, error: MintedConnectError, number: int) -> float | None:
        """Return the pause before another attempt, or None for no more."""
        if may_have_executed(error):
            self.landed = error
        left = self._deadline - self._api.clock.monotonic()
        if self._not_after is not None:
            left = min(left, self._not_after.elapsed - self._api.elapsed())
        policy, roll, effect = self._api.settings.retry, self._options.random(), self._request.effect
        pause = pause_before_retry(effect, error, number, policy, left=left, roll=roll)
        # A client that was closed under the call has nothing to try again with: what the first try met stands.
        if pause is None or self._shared.transport.closed:
            return None
        cost = TIMEOUT_COST if isinstance(error, RequestTimeout) else RETRY_COST
        if self._guarded and not self._shared.budget.take(cost):
            if isinstance(error, NotSent):
                raise BudgetExhausted(f"{error}; not tried again: too many calls failed lately") from None
            return None
        prepare = self._prepared
        text = "%s %s: attempt %d failed (%s); next in %.2f s"
        _logger.warning(text, prepare.method, prepare.route, number, type(error).__name__, pause)
        return pause
