"""All errors that this library raises.

MintedConnectError              .safe_to_retry .request .method .path .attempts .elapsed
 +- ConfigurationError          an option that is not valid; raised before any I/O
 +- ClientClosedError           closed, forked, or used on another event loop; the text says which
 +- NotSent                     nothing reached the server
 |   +- InvalidInput            (also a ValueError) .field .rule
 |   +- ConnectFailed
 |   |   +- TLSFailed           .is_closed_by_server
 |   +- PoolTimeout             no connection became free in time
 |   +- LimiterTimeout          the client-side rate limit allows the call only after its deadline
 |   +- CircuitOpen             the circuit breaker is open
 |   +- BudgetExhausted         the shared retry budget has too few tokens
 |   +- JournalError            the journal could not record the intent  .is_lost
 |   +- FleetError              the Redis server of a fleet of feeds cannot be used
 |   +- PriceFixExpired         the price lock has too few seconds left
 |   +- PriceChanged            .expected .actual
 |   +- AlreadyInFlight         the basket or reference is being, or has been, completed  .intent_id .order_id
 |   +- LimitExceeded           a limit of `Options.spending`  .limit .maximum .spent .amount
 +- SinkError                   ticks could not be recorded; the text names the file
 +- TransportError              sent, but no usable response  .phase
 |   +- RequestTimeout          (also a TimeoutError)
 +- APIError                    the server returned an error .status .code .message .request_id .retry_after
 |   +- BadRequest              400
 |   +- AuthenticationFailed    401
 |   |   +- AuthDowngrade       the challenge is not acceptable: weaker, or of another realm
 |   +- PermissionDenied        403
 |   +- NotFound                404
 |   +- Conflict                409
 |   +- ValidationFailed        422                         .fields
 |   +- RateLimited             429
 |   +- ServerError             5xx
 +- ProtocolError               a response that cannot be trusted  .problems
 |   +- ResponseTooLarge
 |   +- UnexpectedRedirect
 |   +- IntegrityError          the response belongs to another customer or basket
 +- CompletionRejected          the order failed, or a refusal was confirmed after the call  .order .refusal
 +- NotExecuted                 the completion was provably not executed  .intent
 +- BasketIncomplete            a basket was not filled completely  .basket .present .missing .surplus
 +- OutcomeUnknown              the completion may have been executed  .intent .phase .evidence
 +- OrderUnreadable             the completion is confirmed, but its order cannot be read  .order_id

All classes take positional arguments, so errors can be pickled and copied. `str()` and `repr()` contain no credentials,
query strings, bodies or personal data: `path` is the route template, never the path with ids, and texts of the server
are redacted, in attributes too. A pickled error has its order without personal data, and its intent unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import attrs

from minted_connect.error_base import MintedConnectError
from minted_connect.error_base import error_class as _error
from minted_connect.request_info import Effect, Phase, RequestInfo

if TYPE_CHECKING:
    from minted_connect.models import Basket, Intent, Order, Refusal

__all__ = ["ClientClosedError", "ConfigurationError", "Effect", "MintedConnectError", "Phase", "RequestInfo"]
__all__ += ["BudgetExhausted", "CircuitOpen", "ConnectFailed", "FleetError", "InvalidInput", "JournalError", "NotSent"]
__all__ += ["AlreadyInFlight", "LimiterTimeout", "PoolTimeout", "PriceChanged", "PriceFixExpired", "TLSFailed"]
__all__ += ["APIError", "AuthDowngrade", "AuthenticationFailed", "BadRequest", "Conflict", "NotFound", "SinkError"]
__all__ += ["PermissionDenied", "RateLimited", "RequestTimeout", "ServerError", "TransportError", "ValidationFailed"]
__all__ += ["IntegrityError", "LimitExceeded", "ProtocolError", "ResponseTooLarge", "UnexpectedRedirect"]
__all__ += ["BasketIncomplete", "CompletionRejected", "NotExecuted", "OrderUnreadable", "OutcomeUnknown"]


@_error
class ConfigurationError(MintedConnectError):
    """An option, or a combination of options, is not valid. Raised before any request."""


@_error
class ClientClosedError(MintedConnectError):
    """The client is closed, was forked, or belongs to another event loop; the text says which."""


@_error
class NotSent(MintedConnectError):
    """The operation was not sent, or only without a signature; repeating the call cannot execute it twice."""

    _may_succeed_later = True

    @property
    def safe_to_retry(self) -> bool:
        """Whether repeating the same call may succeed."""
        return self._may_succeed_later


@_error
class InvalidInput(NotSent, ValueError):
    """An argument breaks a rule; nothing was sent. Not safe to retry: the same argument fails again."""

    _may_succeed_later = False
    field: str
    rule: str

    @classmethod
    def of(cls, field: str, rule: str) -> InvalidInput:
        """Build the error from the name of the field and the rule that it breaks. It never contains the value."""
        return cls(f"{field}: {rule}", field, rule)


@_error
class ConnectFailed(NotSent):
    """No connection to the server: name resolution failed, or the connection was refused, timed out or was closed."""


@_error
class TLSFailed(ConnectFailed):
    """No trusted TLS connection: certificate, host name or protocol version is wrong, or the handshake was cut off."""

    is_closed_by_server: bool = False

    @property
    def safe_to_retry(self) -> bool:
        """Whether the server closed the connection without an alert, which may be a restart and is retried."""
        return self.is_closed_by_server


@_error
class PoolTimeout(NotSent):
    """All connections were busy for the whole time of `Timeouts.pool`."""


@_error
class LimiterTimeout(NotSent):
    """The client-side rate limit allows the call only after its deadline."""


@_error
class CircuitOpen(NotSent):
    """The circuit breaker is open, because several consecutive attempts failed."""


@_error
class BudgetExhausted(NotSent):
    """The shared retry budget has too few tokens for another attempt."""


@_error
class JournalError(NotSent):
    """The journal cannot be read or written. A completion that needs it was not sent."""

    is_lost: bool = False
    """Whether the journal was deleted, emptied or replaced while in use. This client sends nothing with it any more."""
    intent_id: str | None = None
    """Id of an imported intent that may be the one of the reference: see `complete.assign_reference`."""

    @property
    def safe_to_retry(self) -> bool:
        """Whether repeating the same call may succeed: not with a lost journal, nor before a person has decided."""
        return not self.is_lost and self.intent_id is None


@_error
class FleetError(NotSent):
    """The Redis server of a fleet of feeds cannot be used; the text names it without its password."""


@_error
class PriceFixExpired(NotSent):
    """The price lock of the basket has expired or expires too soon: read the basket again, and check its price."""

    _may_succeed_later = False


@_error
class PriceChanged(NotSent):
    """The price of the basket differs from `expected_total`: agree to the new price first."""

    _may_succeed_later = False
    expected: Decimal | None = None
    actual: Decimal | None = None


@_error
class AlreadyInFlight(NotSent):
    """Another call, in any process, completes or has completed this basket or reference, and decides the outcome."""

    _may_succeed_later = False
    intent_id: str | None = None
    """Id of the other intent in the journal; None if the other call has not prepared one."""
    order_id: int | None = None
    """Number of the order, if the basket has already become one."""


@_error
class LimitExceeded(NotSent):
    """The purchase would exceed a limit of `Options.spending`. Repeating it does not help on the same day."""

    _may_succeed_later = False
    limit: str = ""
    """Name of the limit: `per_purchase`, `per_customer_per_day` or `per_day`."""
    maximum: Decimal | None = None
    """The limit, in `SpendingLimit.currency`."""
    spent: Decimal | None = None
    """The sum of the purchases that count already; None for `per_purchase`."""
    amount: Decimal | None = None
    """The total of this purchase."""


@_error
class SinkError(MintedConnectError):
    """Ticks could not be recorded: the file cannot be written, is in use, or contains other data."""


@_error
class TransportError(MintedConnectError):
    """The request was sent, but no usable response arrived. Safe to retry for reads and idempotent changes."""

    _may_succeed_later = True
    phase: Phase = Phase.SENT


@_error
class RequestTimeout(TransportError, TimeoutError):
    """The response did not arrive in time."""


@_error
class APIError(MintedConnectError):
    """The server responded with an error."""

    status: int = 0
    code: int | None = None
    message: str = ""
    request_id: str | None = None
    body: bytes | None = None
    """The raw response, only with `Options.keep_error_bodies`: it can hold personal data."""
    after_unknown: bool = False
    """Whether an earlier attempt may have been executed, so that a refusal may mean "already done"."""
    retry_after: float | None = None
    """Seconds to wait before the next request, if the server sent a `Retry-After`."""
    is_confirmed: bool = False
    """Whether reads have confirmed that a refused completion was not executed."""

    @property
    def is_vendor_response(self) -> bool:
        """Whether the response is in the vendor's envelope with a `code`. Any other may come from a gateway."""
        return self.code is not None


@_error
class BadRequest(APIError):
    """400: the server did not understand the request."""


@_error
class AuthenticationFailed(APIError):
    """401: user name or password is wrong, or a gateway requires other credentials."""

    refused_digest: bool = False
    """Whether the response is a Digest challenge of the realm that accepted this client before. Any other 401 may come
    from a gateway."""


@_error
class AuthDowngrade(AuthenticationFailed):
    """The server requests weaker authentication or another realm than before, or a scheme that this library rejects."""


@_error
class PermissionDenied(APIError):
    """403: these credentials have no permission for the operation."""


@_error
class NotFound(APIError):
    """404: the object does not exist, or these credentials cannot access it."""


@_error
class Conflict(APIError):
    """409: the state of the object does not allow the operation."""


@_error
class ValidationFailed(APIError):
    """422: the server rejected the values of some fields."""

    fields: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])
    """Messages by request field; messages about no single field have the key ``""``."""


@_error
class RateLimited(APIError):
    """429: too many requests; a gateway may have forwarded this one. Safe to retry for reads and idempotent changes."""

    _may_succeed_later = True


@_error
class ServerError(APIError):
    """5xx: the server failed, maybe after it executed the request. Safe to retry for reads and idempotent changes."""

    _may_succeed_later = True


@_error
class ProtocolError(MintedConnectError):
    """The response cannot be trusted: not JSON, too large, too deeply nested, or not of the expected structure."""

    problems: tuple[str, ...] = ()
    """The violations, each with its path (`data.items[0].sku: required field missing`)."""
    status: int = 0
    request_id: str | None = None
    body: bytes | None = None


@_error
class ResponseTooLarge(ProtocolError):
    """The response is larger than `Options.max_body` after decompression."""


@_error
class UnexpectedRedirect(ProtocolError):
    """3xx: redirects are never followed."""


@_error
class IntegrityError(ProtocolError):
    """The response belongs to another customer or another basket."""


@_error
class CompletionRejected(MintedConnectError):
    """The order of a completion failed or was cancelled, or a refusal was confirmed after the call.

    A refusal that is confirmed during the call raises the `APIError` of the response instead.
    """

    order: Order | None = None
    """The failed order; None if no order was created, or if it cannot be read."""
    refusal: Refusal | None = None
    """The response that refused the completion; None if an order was created."""


@_error
class BasketIncomplete(MintedConnectError):
    """A basket could not be filled, after a change that was, or may have been, made: repeat the call to continue."""

    basket: Basket | None = None
    """The basket as last read; None if no open basket was found."""
    present: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Pieces by sku that the basket has as requested."""
    missing: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Pieces by sku that were requested and that the basket does not have."""
    surplus: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Pieces by sku that the basket has, and that were not requested."""


@_error
class NotExecuted(MintedConnectError):
    """The completion was provably not executed. Whether to buy again is the caller's decision."""

    intent: Intent | None = None


@_error
class OrderUnreadable(MintedConnectError):
    """The completion is confirmed (never repeat it); its order cannot be read. Raised by `Completion.require_order`."""

    order_id: int | None = None
    """Number of the order; None if the response did not contain a readable one."""


@_error
class OutcomeUnknown(MintedConnectError):
    """The completion may have been executed: pass this error to `complete.reconcile`, never repeat the completion."""

    intent: Intent
    phase: Phase = Phase.SENT
    evidence: tuple[str, ...] = ()
