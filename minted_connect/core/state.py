"""Settings of a client, and the state that it shares with the clients made by its `with_options`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from minted_connect.clock import ElapsedTime
from minted_connect.config import Options, RetryPolicy, Timeouts
from minted_connect.core.extra_fields import ExtraFields, add_extra_fields
from minted_connect.core.locks import KeyedLocks
from minted_connect.core.request import check_paths
from minted_connect.core.server_stats import ServerStats
from minted_connect.core.throttle import CircuitBreaker, RateLimiter, RetryBudget
from minted_connect.core.transport import Transport
from minted_connect.errors import ConfigurationError
from minted_connect.server_warnings import ServerWarnings
from minted_connect.validation import check_header, check_type, is_seconds

__all__ = ["ClientSettings", "ClientState", "LagSource", "check_settings"]


def _header(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    check_header(attribute.name, value)


@attrs.frozen(kw_only=True)
class ClientSettings:
    """Settings of one client.

    Raises:
        ConfigurationError: if a setting is not valid.
    """

    timeouts: Timeouts = attrs.field(factory=Timeouts)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    deadline: float | None = None
    """Seconds for each request with its retries, in place of `Timeouts.total` and `complete_total`."""
    client_id: str = attrs.field(default="web", validator=_header)
    language: str = attrs.field(default="tr", validator=_header)
    options: Options = attrs.field(factory=Options)
    extra_fields: ExtraFields | None = None
    """Additions to every request except completions."""

    def __attrs_post_init__(self) -> None:
        check_paths(self.options.paths)
        if self.deadline is not None and not is_seconds(self.deadline):
            raise ConfigurationError("deadline: must be seconds above 0, and finite")

    def changed(
        self,
        *,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> ClientSettings:
        """Return these settings with other values; None leaves a value as it is.

        Args:
            extra_headers: Replaces the headers of `extra_fields`.
            extra_query: Replaces its query parameters.
            extra_body: Replaces its fields of the body.
            changes: The new values of other settings.

        Raises:
            ConfigurationError: if a value is not valid.
        """
        check_settings(changes.get("timeouts"), changes.get("retry"), None)
        given = {name: value for name, value in changes.items() if value is not None}
        header = self.options.completion.idempotency_header
        extra = add_extra_fields(self.extra_fields, extra_headers, extra_query, extra_body, header)
        return attrs.evolve(self, extra_fields=extra, **given)


def check_settings(timeouts: object, retry: object, options: object) -> None:
    """Check the types of these arguments of a client.

    Raises:
        ConfigurationError: if one of them has another type.
    """
    check_type("timeouts", timeouts, Timeouts, optional=True)
    check_type("retry", retry, RetryPolicy, optional=True)
    check_type("options", options, Options, optional=True)


class LagSource(Protocol):
    """A server that reports its delays: the sandbox of a client made by `sandbox()`."""

    @property
    def reads_behind(self) -> float:
        """Seconds within which an order or a change is visible to every read."""
        ...

    @property
    def latest_landing(self) -> float | None:
        """Seconds after which a request that was sent can no longer be executed; None without a limit."""
        ...


class ClientState:
    """Transport, server statistics, locks, retry budget, rate limiter and circuit breaker.

    Shared by a client and the clients made by its `with_options`.
    """

    def __init__(self, transport: Transport, settings: ClientSettings) -> None:
        options = settings.options
        self.transport = transport
        self.server_stats: ServerStats = ServerStats()
        self.elapsed: ElapsedTime = ElapsedTime(options.clock)
        self.lag_source: LagSource | None = None
        self.on_structure: Callable[[str, Any, Any], object] | None = None
        """Called with operation name, response data and target type, before the data is converted."""
        self.server_warnings: ServerWarnings = ServerWarnings()
        self.locks: KeyedLocks = KeyedLocks(options.clock)
        self.budget: RetryBudget = RetryBudget(settings.retry.budget)
        self.limiter: RateLimiter | None = (
            RateLimiter(options.rate_limit, options.clock) if options.rate_limit else None
        )
        self.breaker: CircuitBreaker | None = (
            CircuitBreaker(options.breaker, options.clock) if options.breaker else None
        )
