"""What can be watched of a client from outside: its attempts, one by one, without anybody's data."""

from __future__ import annotations

from datetime import datetime

import attrs

from minted_connect.errors import Phase

__all__ = ["Attempt"]


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt to send a request, after it ended; `Options.on_attempt` is called with it.

    It names the route by its template: no ids, no query, no bodies, nothing personal.
    """

    operation: str
    """Name of the method that offers it (`baskets.get_active`); `request` for what was written by hand."""
    method: str
    route: str
    """Template of the path (``/partner/customer/{}``); `(raw)` for what was written by hand."""
    server: str
    """Origin of the server (``https://host:port``)."""
    number: int
    """1 for the first attempt of a call; higher after failures."""
    started_at: datetime
    """By the client's clock, aware."""
    elapsed: float
    """Seconds: waiting for a connection and for the login included."""
    phase: Phase
    """How far the request got."""
    status: int | None = None
    """Of the answer, if one came."""
    error: str | None = None
    """Class of what was raised, if something was; `CancelledError` when the caller gave up."""
