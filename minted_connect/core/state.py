"""Settings of a client, and the state that a client shares with its siblings."""

from __future__ import annotations

from typing import Protocol

import attrs

from minted_connect.clock import ElapsedTime
from minted_connect.config import Options, RetryPolicy, Timeouts
from minted_connect.core.locks import KeyedLocks
from minted_connect.core.request import check_paths
from minted_connect.core.server_stats import ServerStats
from minted_connect.core.throttle import CircuitBreaker, RateLimiter, RetryBudget
from minted_connect.core.transport import Transport
from minted_connect.errors import ConfigurationError
from minted_connect.validation import check_header, is_seconds

__all__ = ["ClientSettings", "ClientState", "LagSource"]


def _header(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    check_header(attribute.name, value)


@attrs.frozen(kw_only=True)
class ClientSettings:
    """Settings in which the siblings of one client may differ."""

    timeouts: Timeouts = attrs.field(factory=Timeouts)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    deadline: float | None = None
    """Seconds for each request, in place of `Timeouts.total` and `complete_total`."""
    client_id: str = attrs.field(default="web", validator=_header)
    language: str = attrs.field(default="tr", validator=_header)
    options: Options = attrs.field(factory=Options)

    def __attrs_post_init__(self) -> None:
        check_paths(self.options.paths)
        if self.deadline is not None and not is_seconds(self.deadline):
            raise ConfigurationError("deadline: must be seconds above 0, and finite")


class LagSource(Protocol):
    """A server that knows its own delays, such as the sandbox behind a client made by `sandbox()`."""

    @property
    def reads_behind(self) -> float:
        """Seconds within which an order or a change shows in the reads."""
        ...

    @property
    def latest_landing(self) -> float | None:
        """Seconds after which a request that was sent can no longer be carried out; None if there is no bound."""
        ...


class ClientState:
    """State that siblings share: transport, server statistics, locks, retry budget, limiter and breaker."""

    def __init__(self, transport: Transport, settings: ClientSettings) -> None:
        options = settings.options
        self.transport = transport
        self.server_stats: ServerStats = ServerStats()
        self.elapsed: ElapsedTime = ElapsedTime(options.clock)
        self.lag_source: LagSource | None = None
        self.locks: KeyedLocks = KeyedLocks(options.clock)
        self.budget: RetryBudget = RetryBudget(settings.retry.budget)
        self.limiter: RateLimiter | None = (
            RateLimiter(options.rate_limit, options.clock) if options.rate_limit else None
        )
        self.breaker: CircuitBreaker | None = (
            CircuitBreaker(options.breaker, options.clock) if options.breaker else None
        )
