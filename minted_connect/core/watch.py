"""Telling whoever watches a client of each attempt; without a hook, none of this runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from minted_connect.clock import Clock
from minted_connect.core.pool import RequestProgress
from minted_connect.core.request import Request
from minted_connect.core.response import Response
from minted_connect.errors import MintedConnectError, NotSent, Phase
from minted_connect.hooks import Attempt

__all__ = ["watched"]

_logger = logging.getLogger("minted_connect")


async def watched(
    send: Callable[[], Awaitable[Response]],
    hook: Callable[[Attempt], object],
    *,
    request: Request,
    server: str,
    number: int,
    clock: Clock,
    progress: RequestProgress,
) -> Response:
    """Make one attempt, and tell the hook how it went, whatever that was."""
    started_at, started = clock.wall(), clock.monotonic()
    status: int | None = None
    failed: BaseException | None = None
    try:
        reply = await send()
        status = reply.status
        return reply
    except MintedConnectError as error:
        failed, status = error, getattr(error, "status", None) or None
        raise
    except asyncio.CancelledError as error:
        failed = error
        raise
    finally:
        attempt = Attempt(
            operation=request.operation.name,
            method=request.operation.method,
            route=request.route,
            server=server,
            number=number,
            started_at=started_at,
            elapsed=clock.monotonic() - started,
            # Of an earlier attempt, where this one was held back before it began.
            phase=Phase.NOT_SENT if isinstance(failed, NotSent) else progress.phase,
            status=status,
            error=None if failed is None else type(failed).__name__,
        )
        try:
            hook(attempt)
        except Exception:
            # A call that moves money must not fail over somebody watching it.
            _logger.exception("Options.on_attempt raised")
