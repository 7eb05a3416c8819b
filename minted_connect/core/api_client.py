"""The client below the resources: sends requests, and returns models.

Resources and completions send every request with an `ApiClient`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from datetime import datetime
from types import NoneType
from typing import Any, TypeVar, cast

import attrs

from minted_connect.clock import Clock, ElapsedTime, sleep_until
from minted_connect.config import CompletionPolicy
from minted_connect.core import converter, exact_json
from minted_connect.core.call import Call
from minted_connect.core.failures import may_have_executed, needs_read_back, read_back_offsets
from minted_connect.core.pool import PoolKind, PreparedRequest, RequestProgress, SendLimit
from minted_connect.core.request import Effect, Request
from minted_connect.core.response import Response, make_integrity_error, make_schema_error
from minted_connect.core.retry import retry_after
from minted_connect.core.state import ClientSettings, ClientState
from minted_connect.errors import (
    AuthenticationFailed,
    ConfigurationError,
    MintedConnectError,
    NotFound,
    NotSent,
    Phase,
    ValidationFailed,
)
from minted_connect.models import UnreadableRow
from minted_connect.response_info import attach_response

__all__ = ["ApiClient", "ChangeLimit"]

_T = TypeVar("_T")

_logger = logging.getLogger("minted_connect")

API_VERSION = "3"
"""The latest `api-version` in the vendor's documentation."""


@attrs.define(eq=False)
class ChangeLimit:
    """The time until which the holder of a lock may send changes, and whether one of them may still be executed."""

    send_limit: SendLimit
    is_uncertain: bool = False
    """Whether an attempt of a change was sent, and no response proves that the server will not execute it later."""

    @contextmanager
    def recording(self, call: Call) -> Generator[None]:
        """Record how a change ends inside the `with` block."""
        proven = 0
        try:
            yield
        except MintedConnectError as error:
            # Any other refusal may come from a server that executes the change all the same, as `needs_read_back` says.
            if isinstance(error, AuthenticationFailed | NotFound | ValidationFailed) and error.is_vendor_response:
                proven = 1
            raise
        except BaseException:
            self.is_uncertain = self.is_uncertain or call.progress.phase is not Phase.NOT_SENT
            raise
        finally:
            if call.failed_sends > proven:
                self.is_uncertain = True


class ApiClient:
    """Sends requests with one set of settings."""

    def __init__(
        self,
        state: ClientState,
        settings: ClientSettings,
        user_agent: str,
        *,
        pool: PoolKind = PoolKind.DEFAULT,
        held_lock: Hashable = None,
        change_limit: ChangeLimit | None = None,
    ) -> None:
        self.state = state
        self.settings = settings
        self._pool = pool
        self._held_lock = held_lock
        self._change_limit = change_limit
        self.clock: Clock = settings.options.clock
        self._user_agent = user_agent
        self._extra_fields = settings.extra_fields
        self._headers = {
            "Accept": "application/json",
            "Accept-Language": settings.language,
            "User-Agent": settings.options.user_agent or _to_user_agent(user_agent, settings.options.app_info),
            "api-version": API_VERSION,
            "x-client-id": settings.client_id,
        }
        self._headers_with_body = {**self._headers, "Content-Type": "application/json"}

    def with_settings(self, settings: ClientSettings) -> ApiClient:
        """Return a client with other settings and the same state."""
        return ApiClient(self.state, settings, self._user_agent, pool=self._pool)

    def with_pool(self, pool: PoolKind) -> ApiClient:
        """Return a client that uses this pool in place of the default pool, with the same settings and state.

        Requests over the recovery pool bypass rate limiter, breaker and retry budget.
        """
        return self._copy(pool, self._held_lock, self._change_limit)

    def with_held_lock(self, key: Hashable, change_limit: ChangeLimit | None = None) -> ApiClient:
        """Return a client for the holder of the lock of `key`: its changes do not wait for that lock.

        Args:
            key: The id of the customer.
            change_limit: If given, changes are sent only before its time, and are recorded in it.
        """
        return self._copy(self._pool, key, change_limit)

    def _copy(self, pool: PoolKind, held_lock: Hashable, change_limit: ChangeLimit | None) -> ApiClient:
        return ApiClient(
            self.state, self.settings, self._user_agent, pool=pool, held_lock=held_lock, change_limit=change_limit
        )

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this machine, as a local sandbox does."""
        return self.state.transport.is_loopback

    @property
    def elapsed(self) -> ElapsedTime:
        """The elapsed clock, which includes the time the machine is suspended."""
        return self.state.elapsed

    def server_time(self) -> datetime:
        """Return the time by the server's clock."""
        return self.state.server_stats.server_time(self.clock.wall(), self.elapsed())

    def latest_server_time(self) -> datetime:
        """Return the latest time that the server's clock may show."""
        return self.state.server_stats.latest_server_time(self.clock.wall(), self.elapsed())

    async def sleep_until(self, due: float) -> None:
        """Sleep until a monotonic time, or until the client is closed."""
        await sleep_until(self.clock, due, self.state.transport.ended)

    @property
    def completion_policy(self) -> CompletionPolicy:
        """`Options.completion`; delays that have their default values come from the `LagSource`, if there is one."""
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
        """Identifies the server and the user without naming them."""
        return self.state.transport.account

    def check_usable(self) -> None:
        """Check that this process and event loop can use the client, before a wait that would never end otherwise.

        Raises:
            ClientClosedError: if the client is closed, was built before a fork, or was first used on another loop.
        """
        self.state.transport.check_usable()

    def check_may_change(self, operation: str) -> None:
        """Check that `Options.read_only` is not set, before an operation that changes something.

        Raises:
            ConfigurationError: if it is set.
        """
        if self.settings.options.read_only:
            raise ConfigurationError(f"Options.read_only: is set, so {operation} is refused: nothing was sent")

    def check_may_complete(self, operation: str) -> None:
        """Check that this client adds nothing to requests, before a completion or its reconciliation.

        Raises:
            ConfigurationError: if it does.
        """
        if self.settings.extra_fields is not None:
            text = "are not added to completions and their reconciliation: use a client without them; nothing was sent"
            raise ConfigurationError(f"extra_headers, extra_query, extra_body ({operation}): {text}")

    async def send(
        self,
        request: Request,
        returns: type[_T],
        *,
        read_back: Callable[[MintedConnectError], Awaitable[_T]] | None = None,
        lock: Hashable = None,
        check: Callable[[_T], Sequence[str]] | None = None,
    ) -> _T:
        """Send a request, and return the `data` of its response as `returns`.

        Args:
            request: The request.
            returns: Type of the result; `NoneType` ignores the data.
            read_back: Reads the state after an error that leaves open whether the change was executed, and receives
                this error. Returns the result if the change is visible, raises the same error to be called again later,
                or raises another error to end the reads. Only used with `lock`.
            lock: For a change: id of the customer whose baskets or data it affects. Changes with the same id run one
                after the other.
            check: Returns the problems of a result that belongs to another customer or basket. Not called with the
                result of `read_back`.

        Raises:
            IntegrityError: if `check` returns a problem.
            ProtocolError: if the data does not match `returns`.
            MintedConnectError: as `exchange`.
        """
        if lock is None:
            return self._convert(await self.exchange(request), returns, request, check)
        end = self.clock.monotonic() + (self.settings.deadline or self.settings.timeouts.total)
        async with self.hold_lock(lock):
            try:
                return self._convert(await self.exchange(request), returns, request, check)
            except MintedConnectError as error:
                if read_back is None or not needs_read_back(error):
                    raise
                failure = error
            return await self._read_back(failure, read_back, end)

    async def send_optional(
        self, request: Request, returns: type[_T], *, check: Callable[[_T], Sequence[str]] | None = None
    ) -> _T | None:
        """Send a request, and return the `data` of its response as `returns`, or None if `Response.is_null`.

        Arguments and errors are those of `send`.
        """
        response = await self.exchange(request)
        return None if response.is_null else self._convert(response, returns, request, check)

    def _convert(
        self, response: Response, returns: type[_T], request: Request, check: Callable[[_T], Sequence[str]] | None
    ) -> _T:
        if returns is NoneType:
            return cast("_T", None)
        result = self.structure(response.data, returns, request, response)
        if check is not None and (problems := tuple(check(result))):
            raise make_integrity_error(problems, request.info, response)
        return result

    async def _read_back(
        self, failure: MintedConnectError, read_back: Callable[[MintedConnectError], Awaitable[_T]], end: float
    ) -> _T:
        """Read until the change is visible, until a delayed read would have shown it, or until `end`."""
        policy, clock = self.completion_policy, self.clock
        started = clock.monotonic()
        limit = policy.settle_time if policy.inline_looks is None else min(policy.inline_looks, policy.settle_time)
        # A refusal most likely means that nothing was executed: one read, and no wait for replication.
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

    def hold_lock(self, key: Hashable, timeout: float | None = None) -> AbstractAsyncContextManager[None]:
        """Return a context manager that holds the lock of a customer.

        Args:
            key: Id of the customer. Every request that can affect a basket of a customer holds the same lock.
            timeout: Seconds to wait for the lock; by default the deadline of a call.

        Raises:
            NotSent: on entering, if the lock was not free in time.
            ClientClosedError: as `check_usable`.
        """
        self.check_usable()
        if key == self._held_lock:
            return nullcontext()
        return self.state.locks.hold(key, timeout or self.settings.deadline or self.settings.timeouts.total)

    def structure(
        self, data: Any, returns: type[_T], request: Request | None = None, response: Response | None = None
    ) -> _T:
        """Convert the data of a response to `returns`; `request` and `response` are used for errors and logs only.

        Raises:
            ProtocolError: if the data does not match; `.problems` has the path of each mismatch.
        """
        if request is not None and self.state.on_structure is not None:
            self.state.on_structure(request.operation.name, data, returns)
        sent_at = response.sent_at if response else None
        try:
            model = converter.structure(data, returns, elapsed=self.elapsed, sent_at=sent_at)
        except converter.StructureError as mismatch:
            problems = mismatch.problems
        else:
            rows: tuple[UnreadableRow, ...] = getattr(model, "unreadable", ())
            if response is not None:
                attach_response(model, response)
            for row in rows:
                name = "a page" if request is None else str(request.info)
                _logger.warning("%s: a row cannot be read and is left out: %s", name, row.problem)
            return model
        raise make_schema_error(problems, None if request is None else request.info, response)

    async def exchange(
        self,
        request: Request,
        *,
        not_after: SendLimit | None = None,
        progress: RequestProgress | None = None,
        bypass_limits: bool = False,
    ) -> Response:
        """Send a request, with retries, and return the response.

        Args:
            request: The request.
            not_after: The latest time to send a completion: the end of the price lock, less a margin.
            progress: Records the phase that the request reached, also if the call is cancelled.
            bypass_limits: Use the recovery pool and bypass rate limiter, breaker and retry budget, because the
                incident being investigated may have exhausted them.

        Raises:
            MintedConnectError: the error of the last attempt, with `attempts` and `elapsed`; if that attempt was not
                sent, the error of an earlier attempt that may have been executed.
        """
        if request.effect is not Effect.READ:
            self.check_may_change(request.operation.name)
        if self._extra_fields is not None:
            if request.effect is Effect.COMPLETE:
                self.check_may_complete(request.operation.name)
            request = self._extra_fields.added_to(request, is_read_back=self._pool is PoolKind.RECOVERY)
        prepared = self.prepare(request, bypass_limits=bypass_limits)
        progress = progress or RequestProgress()
        changes = None if request.effect in {Effect.READ, Effect.COMPLETE} else self._change_limit
        if changes is not None:
            not_after = changes.send_limit
        call = Call(self.state, self.settings, request, prepared, progress=progress, not_after=not_after)
        try:
            with nullcontext() if changes is None else changes.recording(call):
                try:
                    response = await call.attempt()
                except MintedConnectError as error:
                    retrying = retry_after(error, call.attempt, call.decide, self.clock.sleep)
                else:
                    if prepared.pool is not PoolKind.RECOVERY:
                        self.state.budget.refund()
                    return response
                # Outside of the except block, so that the first error does not become the context of later ones.
                return await retrying
        except asyncio.CancelledError as cancelled:
            if request.effect is Effect.NON_IDEMPOTENT and progress.phase is not Phase.NOT_SENT:
                cancelled.add_note(f"{request.info} may have been executed: read the state before you repeat it")
            raise
        except NotSent:
            # True for the last attempt, but not for the call: an earlier attempt may have been executed.
            if call.ambiguous_error is None or request.effect is Effect.READ:
                raise
            failure = call.ambiguous_error
        raise failure

    def prepare(self, request: Request, *, bypass_limits: bool) -> PreparedRequest:
        """Build the target, headers and body of a request, and choose its pool."""
        options, operation = self.settings.options, request.operation
        body = b"" if request.body is None else exact_json.dumps(request.body)
        headers = self._headers_with_body if body else self._headers
        pool = PoolKind.COMPLETION if operation.effect is Effect.COMPLETE else self._pool
        return PreparedRequest(
            operation.method,
            self.state.transport.prefix + request.target(options.paths),
            request.route,
            {**headers, **request.headers} if request.headers else headers,
            body,
            PoolKind.RECOVERY if bypass_limits else pool,
            is_idempotent=operation.effect.is_idempotent,
        )


def _to_user_agent(library: str, app_info: tuple[str, str] | None) -> str:
    return library if app_info is None else f"{'/'.join(app_info)} {library}"
