"""The event passed to `Options.on_attempt`. Contains no personal data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import attrs

from minted_connect.errors import Phase

__all__ = ["Attempt", "notify_attempt"]

_logger = logging.getLogger("minted_connect")


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt to send a request, passed to `Options.on_attempt` after the attempt ended.

    The route is the path template. An attempt holds no ids, query strings, bodies or personal data.
    """

    operation: str
    """Name of the client method that sends the operation (`baskets.get_active`); `request` for `client.request`."""
    method: str
    """HTTP method."""
    route: str
    """Template of the path (``/partner/customer/{}``); `(raw)` for `client.request`."""
    server: str
    """Origin of the server (``https://host:port``)."""
    number: int
    """Number of the attempt within its call, from 1."""
    started_at: datetime
    """Start by the client's wall clock, aware."""
    elapsed: float
    """Duration in seconds, including waits for a connection and for the digest handshake."""
    phase: Phase
    """The phase that the request reached."""
    status: int | None = None
    """HTTP status of the response; None without a response."""
    error: str | None = None
    """Class name of the error that was raised; None after success, `CancelledError` after a cancellation."""


def notify_attempt(hook: Callable[[Attempt], object], attempt: Attempt) -> None:
    """Call the hook. Log an exception that it raises: the hook must not make a call fail that may move money."""
    try:
        hook(attempt)
    except Exception:
        _logger.exception("Options.on_attempt raised")
