"""Settings of a client: immutable, validated when they are built, shared by siblings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, Literal

import attrs

from minted_connect.clock import SYSTEM_CLOCK, Clock
from minted_connect.hooks import Attempt
from minted_connect.spending import SpendingLimit
from minted_connect.validation import (
    validate_account_name,
    validate_app_info,
    validate_at_least,
    validate_callable,
    validate_choice,
    validate_clock,
    validate_header_name,
    validate_header_value,
    validate_paths,
    validate_refusals,
    validate_seconds,
    validate_seconds_or_zero,
    validate_type,
)

__all__ = [
    "FEED_BREAKER",
    "STAGING",
    "BreakerPolicy",
    "CompletionPolicy",
    "Options",
    "RateLimit",
    "RetryPolicy",
    "SpendingLimit",
    "Timeouts",
]

STAGING: Final = "https://api.staging.mintedconnect.com"
"""The vendor's staging server (documented), and the default of `base_url`."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """Time limits of requests and completions, in seconds; all are finite.

    A short `complete_read` causes unknown outcomes: the server goes on with the purchase after the client timed out.
    """

    pool: float = attrs.field(default=5.0, validator=validate_seconds)
    """Waiting for a free connection."""
    connect: float = attrs.field(default=5.0, validator=validate_seconds)
    """Name resolution, TCP and TLS handshake; part of `read`."""
    read: float = attrs.field(default=15.0, validator=validate_seconds)
    """One attempt including the digest handshake, from waiting for a connection to the last byte of the response."""
    total: float = attrs.field(default=30.0, validator=validate_seconds)
    """The deadline of one request: attempts, waits and digest rounds together."""
    complete_read: float = attrs.field(default=45.0, validator=validate_seconds)
    """As `read`, for completions."""
    complete_total: float = attrs.field(default=60.0, validator=validate_seconds)
    """As `total`, for completions; reconciliation has its own budget."""


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Number of attempts of a call, and the waits between them. Which calls may be retried is not configurable.

    The wait before retry n is uniformly random between 0 and `wait_initial` * 2^(n-1), at most `wait_max` (full
    jitter).
    """

    read_attempts: int = attrs.field(default=3, validator=validate_at_least(1))
    """Attempts of a call that only reads."""
    write_attempts: int = attrs.field(default=2, validator=validate_at_least(1))
    """Attempts of an idempotent change. Other changes and completions are sent again only if no connection could be
    opened, and then at most once."""
    wait_initial: float = attrs.field(default=0.5, validator=validate_seconds)
    wait_max: float = attrs.field(default=8.0, validator=validate_seconds)
    budget: int = attrs.field(default=100, validator=validate_at_least(0))
    """Tokens shared by all calls of a client: a retry costs 5, a retry after a timeout 10; a success without a retry
    returns 1. If several idle connections broke together, only the first retry is charged."""

    @classmethod
    def none(cls) -> RetryPolicy:
        """Build a policy without retries."""
        return cls(read_attempts=1, write_attempts=1, budget=0)


@attrs.frozen(kw_only=True)
class RateLimit:
    """Rate limit: at most `rate` requests per second on average, and `burst` at once (token bucket)."""

    rate: float = attrs.field(validator=validate_seconds)
    burst: int = attrs.field(default=1, validator=validate_at_least(1))


@attrs.frozen(kw_only=True)
class BreakerPolicy:
    """Circuit breaker: opens after `failures` consecutive failed attempts; allows a probe after `cooldown` seconds."""

    failures: int = attrs.field(default=5, validator=validate_at_least(1))
    cooldown: float = attrs.field(default=30.0, validator=validate_seconds)


FEED_BREAKER: Final = BreakerPolicy()
"""The default of a price feed: opens after five failed polls in a row, then sends probes at least 30 seconds apart."""


@attrs.frozen(kw_only=True)
class CompletionPolicy:
    """Assumptions about the server that only the vendor or its staging server can confirm; the defaults are safe.

    Change a setting only after the vendor or staging has answered its question: Q1 to Q9 are listed in the guide to
    money safety.
    """

    price_fix_margin: float = attrs.field(default=3.0, validator=validate_seconds)
    """Seconds that the price lock must still last when the request is sent (Q3); the 99th percentile of recent response
    times if that is longer. So the client does not depend on what a completion after the lock would do."""
    reconcile_budget: float = attrs.field(default=120.0, validator=validate_seconds)
    """Seconds for which `reconcile` keeps reading before it raises `OutcomeUnknown` again."""
    refusals: frozenset[int] = attrs.field(default=frozenset({422}), validator=validate_refusals)
    """Statuses that are accepted as final after one read of basket and orders, if the response is in the vendor's
    envelope (Q2). Every other refusal is accepted only after `settle_time`. With an empty set, every
    refusal waits for `settle_time`."""
    orders_lag: float = attrs.field(default=30.0, validator=validate_seconds_or_zero)
    """Seconds after which a new order, or a change of a basket, is visible in every read (Q5)."""
    inline_looks: float | None = attrs.field(default=None, validator=validate_seconds_or_zero)
    """Seconds after a refusal for which the call itself searches for the order; None = `settle_time`; 0 = no read,
    but one after a status of `refusals` if it may be made at once. If the time is
    over before the refusal is accepted, the call raises `OutcomeUnknown`, and `reconcile` settles it later. It also
    bounds the read-back of a changed basket or customer, which takes at least one read."""
    order_keeps_number: bool = attrs.field(default=True, validator=validate_type(bool))
    """Whether an order has the number (`id`) of its basket (Q4). If False, an order with that number matches the basket
    only if its token, guid or order number is equal too."""
    latest_landing: float | None = attrs.field(default=None, validator=validate_seconds_or_zero)
    """Seconds after which a completion that was sent can no longer be executed (Q1). None = unknown: then an open
    basket alone proves nothing, and `settle_time` counts it as 0."""
    fence_proves_not_executed: bool = attrs.field(default=False, validator=validate_type(bool))
    """Whether clearing a basket makes a later completion of it fail (Q6), including one that was queued before. If
    False, `fence=True` never proves anything. The basket must stay empty for `settle_time`; without `latest_landing`, a
    new line ends the proof."""
    claim_seconds: float = attrs.field(default=120.0, validator=validate_seconds)
    """Seconds for which `complete.buy_items` and the like claim a customer's basket at a time. After a crash, another
    call must wait for as long, plus `Timeouts.total` and `latest_landing`."""
    idempotency_header: str | None = attrs.field(default=None, validator=validate_header_name)
    """Header in which a completion sends the id of its intent, such as `Idempotency-Key`, once the vendor supports one
    (Q9); None = no header."""
    pre_image: Literal["off", "try", "require"] = attrs.field(
        default="off", validator=validate_choice("off", "try", "require")
    )
    """Whether the customer's latest orders are listed before a completion, so that none of them is mistaken for the new
    one: one more request. If the list cannot be read, `try` continues and `require` raises `NotSent`."""

    @property
    def settle_time(self) -> float:
        """Seconds after a response by which an order, if one was made, is visible in the reads."""
        return self.orders_lag + (self.latest_landing or 0.0)


@attrs.frozen(kw_only=True)
class Options:
    """Settings that few applications need: corrected paths, rate limit, breaker, clock, sizes, hooks."""

    paths: Mapping[str, str] = attrs.field(factory=dict[str, str], validator=validate_paths)
    """Corrected path by operation (``{"rates.current": "/partner/walletable/currency-rates"}``)."""
    clock: Clock = attrs.field(default=SYSTEM_CLOCK, validator=validate_clock)
    rate_limit: RateLimit | None = attrs.field(default=None, validator=validate_type(RateLimit, optional=True))
    breaker: BreakerPolicy | None = attrs.field(default=None, validator=validate_type(BreakerPolicy, optional=True))
    completion: CompletionPolicy = attrs.field(default=CompletionPolicy(), validator=validate_type(CompletionPolicy))
    """Assumptions on which completions and reconciliation rely."""
    journal_account: str | None = attrs.field(default=None, repr=False, validator=validate_account_name)
    """Name of the account that owns the intents in the journal; None = derived from server and user name.

    Set it before the user name or the host of the server changes: intents of another account are neither read back nor
    fenced, and do not prevent a second completion of their baskets. Use one name per account, the same in every process
    that shares the journal, and a different one for each account. `complete.adopt` assigns an intent that was written
    under another name."""
    spending: SpendingLimit | None = attrs.field(default=None, validator=validate_type(SpendingLimit, optional=True))
    """Limits for purchases; needs a journal in a file or a database. A purchase above a limit raises `LimitExceeded`.
    Set the same limits in all processes that share the journal."""
    read_only: bool = attrs.field(default=False, validator=validate_type(bool))
    """Refuse every call that changes something, with `ConfigurationError` and before anything is sent or written: all
    operations but reads, completions, `reconcile(fence=True)`, `adopt` and `decide`. `reconcile` without a fence is
    allowed, as it sends only reads; it and `orders.watch` still write into the journal what these reads prove."""
    digest_policy: Literal["any", "modern"] = attrs.field(default="any", validator=validate_choice("any", "modern"))
    """``modern`` refuses MD5 and challenges without qop."""
    keep_error_bodies: bool = attrs.field(default=False, validator=validate_type(bool))
    """Keep the raw body on errors (`.body`). It can contain personal data."""
    route: Literal["auto", "session"] = attrs.field(default="auto", validator=validate_choice("auto", "session"))
    """``session`` sends all requests through an aiohttp session, as completions always are. ``auto`` sends reads and
    basket changes over aiohttp's connections without a session, which takes less CPU time, if aiohttp permits it."""
    pool_size: int = attrs.field(default=20, validator=validate_at_least(1))
    """Maximum number of concurrent requests of each connection pool; completions and reconciliation have their own."""
    keepalive: float = attrs.field(default=15.0, validator=validate_seconds)
    """Seconds for which an idle connection is kept open."""
    max_body: int = attrs.field(default=8 * 1024 * 1024, validator=validate_at_least(1024))
    """Maximum size of a response in bytes, after decompression."""
    max_header_line: int = attrs.field(default=8190, validator=validate_at_least(1024))
    """Maximum length of a header line, and of the status line, of a response in bytes."""
    max_depth: int = attrs.field(default=64, validator=validate_at_least(8))
    """Maximum nesting of a response."""
    user_agent: str | None = attrs.field(default=None, validator=validate_header_value)
    """Value of the `User-Agent` header; None = this library and its version."""
    app_info: tuple[str, str] | None = attrs.field(default=None, validator=validate_app_info)
    """Name and version of the application, as in ``("shop", "2.1")``: added to the `User-Agent` header of this library,
    each an RFC 9110 token of at most 64 characters; not together with `user_agent`."""
    random: Callable[[], float] = attrs.field(
        default=random.random, repr=False, validator=validate_callable("returns a number in [0, 1)")
    )
    """Source of jitter, in [0, 1)."""
    on_attempt: Callable[[Attempt], object] | None = attrs.field(
        default=None, repr=False, validator=validate_callable("takes an Attempt", optional=True)
    )
    """Called after each attempt, on the event loop and in the context of the caller; it must not block. Exceptions that
    it raises are logged and not propagated. `minted_connect.otel` provides one."""
