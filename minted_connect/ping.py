"""`ping`: checks server, credentials, clock and journal of a client with one read."""

from __future__ import annotations

import attrs

from minted_connect.completion.completions import AsyncCompletions
from minted_connect.core.api_client import ApiClient
from minted_connect.core.request import OPERATIONS, Request

__all__ = ["Ping", "PingResult"]


@attrs.frozen(kw_only=True)
class PingResult:
    """The result of a successful `ping`."""

    server: str
    """Origin of the server (``https://host:port``)."""
    latency: float
    """Seconds until the response, including the login if the client had none, and retries."""
    attempts: int
    """Number of attempts that were made."""
    clock_skew: float | None
    """Seconds by which the server's clock is ahead of this machine's, to about a second; None if it sent no date."""
    open_intents: int
    """Number of open intents of this account in the journal: those of `complete.pending`."""
    request_id: str | None = None
    """The request id that the server sent, if any."""


class Ping:
    """The method `ping` of the client."""

    complete: AsyncCompletions
    _api: ApiClient

    async def ping(self) -> PingResult:
        """Read the journal and the current prices, and return latency, clock skew and number of open intents.

        Use it when a process starts, and as a readiness probe: it logs in, and changes nothing.

        Raises:
            AuthenticationFailed: if the server refuses the credentials.
            JournalError: if the journal cannot be read.
            MintedConnectError: as for other reads.
        """
        pending = await self.complete.pending()
        response = await self._api.exchange(Request(OPERATIONS["rates.current"]))
        state = self._api.state
        stats = state.server_stats
        return PingResult(
            server=state.transport.origin,
            latency=response.elapsed,
            attempts=response.attempts,
            clock_skew=stats.clock_skew.total_seconds() if stats.has_date else None,
            open_intents=len(pending),
            request_id=response.request_id,
        )
