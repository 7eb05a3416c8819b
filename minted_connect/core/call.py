"""One call: its attempts, within one deadline, with limiter, breaker, retry budget, log and hook."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from minted_connect.clock import Clock
from minted_connect.core.failures import attach_request, may_have_executed
from minted_connect.core.headers import age_seconds
from minted_connect.core.pool import PoolKind, PreparedRequest, RequestProgress, SendLimit
from minted_connect.core.request import Request
from minted_connect.core.response import RawResponse, Response, parse_response
from minted_connect.core.retry import RETRY_COST, TIMEOUT_COST, pause_before_retry
from minted_connect.core.state import ClientSettings, ClientState
from minted_connect.errors import (
    APIError,
    BudgetExhausted,
    ClientClosedError,
    ConnectFailed,
    MintedConnectError,
    NotSent,
    Phase,
    ProtocolError,
    RequestTimeout,
    TransportError,
)
from minted_connect.hooks import Attempt, notify_attempt
from minted_connect.server_warnings import has_warnings

__all__ = ["Call"]

_logger = logging.getLogger("minted_connect")


class Call:
    """The attempts of one call: makes an attempt, and decides whether to make another one."""

    def __init__(
        self,
        state: ClientState,
        settings: ClientSettings,
        request: Request,
        prepared: PreparedRequest,
        *,
        progress: RequestProgress,
        not_after: SendLimit | None,
    ) -> None:
        timeouts, clock = settings.timeouts, settings.options.clock
        self._state, self._settings, self._options, self._clock = state, settings, settings.options, clock
        self._request, self._prepared, self._not_after = request, prepared, not_after
        self._has_limits = prepared.pool is not PoolKind.RECOVERY
        total = timeouts.complete_total if prepared.pool is PoolKind.COMPLETION else timeouts.total
        self._started = clock.monotonic()
        self._deadline = self._started + (settings.deadline or total)
        self.progress = progress
        progress.elapsed = state.elapsed
        if not_after is not None:
            progress.limit = not_after
            progress.is_too_late = _limit_check(not_after, state, clock)
        self.attempts: int = 0
        self.failed_sends: int = 0
        """Number of attempts that were sent and failed."""
        self.ambiguous_error: MintedConnectError | None = None
        """Error of the latest attempt that failed and may have been executed."""

    def attempt(self) -> Coroutine[Any, Any, Response]:
        """Make one attempt, and parse its response."""
        self.attempts += 1
        # Not a coroutine itself: without a hook, an attempt takes no extra frame.
        hook = self._options.on_attempt
        return self._attempt() if hook is None else self._attempt_with_hook(hook)

    async def _attempt_with_hook(self, hook: Callable[[Attempt], object]) -> Response:
        started_at, started = self._clock.wall(), self._clock.monotonic()
        status: int | None = None
        error_class: str | None = None
        is_unsent = False
        try:
            response = await self._attempt()
            status = response.status
            return response
        except MintedConnectError as error:
            error_class, status = type(error).__name__, getattr(error, "status", None) or None
            is_unsent = isinstance(error, NotSent)
            raise
        except asyncio.CancelledError as error:
            error_class = type(error).__name__
            raise
        finally:
            attempt = Attempt(
                operation=self._request.operation.name,
                method=self._prepared.method,
                route=self._prepared.route,
                server=self._state.transport.origin,
                number=self.attempts,
                started_at=started_at,
                elapsed=self._clock.monotonic() - started,
                # If this attempt was not sent, `progress.phase` can be that of an earlier attempt.
                phase=Phase.NOT_SENT if is_unsent else self.progress.phase,
                status=status,
                error=error_class,
            )
            notify_attempt(hook, attempt)

    async def _attempt(self) -> Response:
        clock, state, prepared = self._clock, self._state, self._prepared
        try:
            if self._has_limits and state.limiter is not None:
                await state.limiter.wait(self._deadline - clock.monotonic())
            breaker = state.breaker if self._has_limits else None
            probe = breaker is not None and breaker.enter()
            failed: bool | None = None
            started = clock.monotonic()
            try:
                left = self._deadline - started
                raw = await state.transport.attempt(prepared, self._settings.timeouts, left, self.progress)
                failed = raw.status >= 500  # noqa: PLR2004 - 5xx
            except (ConnectFailed, TransportError, ProtocolError):
                pool_failure = self.progress.pool_failure
                # Connections that broke together count as one failure of the server.
                failed = True if pool_failure is None or pool_failure.broken == 1 else None
                raise
            finally:
                if breaker is not None:
                    breaker.leave(probe=probe, failed=failed)
            ended = clock.monotonic()
            return self._parse(raw, ended - started, ended - self._started)
        except MintedConnectError as error:
            if not isinstance(error, ClientClosedError):
                elapsed = clock.monotonic() - self._started
                attach_request(error, self._request.info, attempts=self.attempts, elapsed=elapsed)
            if isinstance(error, APIError):
                error.after_unknown = self.ambiguous_error is not None
            raise

    def _parse(self, raw: RawResponse, latency: float, elapsed: float) -> Response:
        """Parse a response, and record the server's clock and latency; all times are in seconds."""
        state, prepared, options = self._state, self._prepared, self._options
        state.server_stats.record_latency(latency)
        if _logger.isEnabledFor(logging.DEBUG):
            text = "%s %s: %d in %.1f ms, attempt %d"
            _logger.debug(text, prepared.method, prepared.route, raw.status, latency * 1e3, self.attempts)
        if has_warnings(raw.headers):
            state.server_warnings.issue(raw.headers, self._request, state.transport.secrets)
        response = parse_response(
            raw,
            request=self._request,
            attempts=self.attempts,
            elapsed=elapsed,
            max_depth=options.max_depth,
            keep_body=options.keep_error_bodies,
            secrets=state.transport.secrets,
            sent_at=self.progress.sent_at,
            now=self._clock.wall,
        )
        date = raw.headers.get("Date", "")
        # A cache keeps the `Date` of the response that it stored, and states its age (RFC 9111, section 5.1).
        latency += age_seconds(raw.headers.get("Age", ""))
        state.server_stats.record_date(date, self._clock.wall(), state.elapsed(), latency)
        return response

    def decide(self, error: MintedConnectError, number: int) -> float | None:
        """Return the pause before a retry, or None if there must be no retry.

        Raises:
            BudgetExhausted: if a request that was not sent may be retried, and the retry budget is exhausted.
        """
        self.failed_sends += not isinstance(error, NotSent)
        if may_have_executed(error):
            self.ambiguous_error = error
        left = self._deadline - self._clock.monotonic()
        if self._not_after is not None:
            left = min(left, self._not_after.elapsed - self._state.elapsed())
        policy, roll, effect = self._settings.retry, self._options.random(), self._request.effect
        pause = pause_before_retry(effect, error, number, policy, left=left, roll=roll)
        # A client that was closed during the call cannot retry: the error of this attempt is raised.
        if pause is None or self._state.transport.closed:
            return None
        if self._has_limits and not self._charge(error):
            if isinstance(error, NotSent):
                text = f"{error}; not retried: too many recent calls failed (RetryPolicy.budget)"
                raise BudgetExhausted(text) from None
            return None
        text = "%s %s: attempt %d failed (%s); next in %.2f s"
        _logger.warning(text, self._prepared.method, self._prepared.route, number, type(error).__name__, pause)
        return pause

    def _charge(self, error: MintedConnectError) -> bool:
        """Charge a retry to the retry budget; return whether the budget allows the retry.

        Reused connections that broke together are charged once: they say nothing about the load of the server.
        """
        failure = self.progress.pool_failure
        if failure is not None and failure.is_charged:
            return True
        is_allowed = self._state.budget.take(TIMEOUT_COST if isinstance(error, RequestTimeout) else RETRY_COST)
        if failure is not None:
            failure.is_charged = is_allowed
        return is_allowed


def _limit_check(limit: SendLimit, state: ClientState, clock: Clock) -> Callable[[], bool]:
    def is_too_late() -> bool:
        elapsed = state.elapsed()
        return limit.is_over(elapsed, state.server_stats.latest_server_time(clock.wall(), elapsed))

    return is_too_late
