"""Everything this library raises, in one tree.

MintedConnectError              .safe_to_retry .request .method .path .attempts .elapsed
 +- ConfigurationError          a bad option, before any I/O
 +- ClientClosedError           after close, after a fork, or on another event loop: says which
 +- NotSent                     provably nothing reached the server
 |   +- InvalidInput            (also a ValueError) .field .rule
 |   +- ConnectFailed
 |   |   +- TLSFailed
 |   +- PoolTimeout             no connection came free in time
 |   +- LimiterTimeout          the client-side rate limit allows it only after the deadline
 |   +- CircuitOpen             the breaker is open
 |   +- BudgetExhausted         the shared retry budget has no token left
 |   +- JournalError            the intent could not be made durable
 |   +- FleetError              the Redis server of a fleet of feeds could not be used
 |   +- PriceFixExpired         the price lock has too few seconds left
 |   +- PriceChanged            .expected .actual
 |   +- AlreadyInFlight         this basket is being completed elsewhere, or was  .intent_id .order_id
 +- SinkError                   ticks could not be recorded: names the file
 +- TransportError              sent, and no usable answer  .phase
 |   +- RequestTimeout          (also a TimeoutError)
 +- APIError                    the server said no          .status .code .message .request_id .retry_after
 |   +- BadRequest              400
 |   +- AuthenticationFailed    401
 |   |   +- AuthDowngrade       a challenge weaker than the one that worked before
 |   +- PermissionDenied        403
 |   +- NotFound                404
 |   +- Conflict                409
 |   +- ValidationFailed        422                         .fields
 |   +- RateLimited             429
 |   +- ServerError             5xx
 +- ProtocolError               an answer that cannot be trusted  .problems
 |   +- ResponseTooLarge
 |   +- UnexpectedRedirect
 |   +- IntegrityError          a response that belongs to another customer or basket
 +- CompletionRejected          a completion whose order failed, or whose refusal was confirmed later  .order .refusal
 +- NotExecuted                 a completion proven not to have happened  .intent
 +- OutcomeUnknown              a completion that may have happened  .intent .phase .evidence
 +- OrderUnreadable             a confirmed completion whose order cannot be read  .order_id

Every class takes positional arguments, so an error survives pickle and copy. `str()` and `repr()` hold no
credentials, query strings, bodies or personal data: `path` is the route template, never the path with ids,
and a server's own words pass `redact()` before they are shown.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeVar, dataclass_transform

import attrs

if TYPE_CHECKING:
    from minted_connect.models import Intent, Order, Refusal

__all__ = [
    "APIError",
    "AlreadyInFlight",
    "AuthDowngrade",
    "AuthenticationFailed",
    "BadRequest",
    "BudgetExhausted",
    "CircuitOpen",
    "ClientClosedError",
    "CompletionRejected",
    "ConfigurationError",
    "Conflict",
    "ConnectFailed",
    "Effect",
    "FleetError",
    "IntegrityError",
    "InvalidInput",
    "JournalError",
    "LimiterTimeout",
    "MintedConnectError",
    "NotExecuted",
    "NotFound",
    "NotSent",
    "OrderUnreadable",
    "OutcomeUnknown",
    "PermissionDenied",
    "Phase",
    "PoolTimeout",
    "PriceChanged",
    "PriceFixExpired",
    "ProtocolError",
    "RateLimited",
    "RequestInfo",
    "RequestTimeout",
    "ResponseTooLarge",
    "ServerError",
    "SinkError",
    "TLSFailed",
    "TransportError",
    "UnexpectedRedirect",
    "ValidationFailed",
]


_T = TypeVar("_T")

AMBIGUOUS_STATUSES: Final = frozenset({408, 425})
"""4xx statuses of servers that may have begun the work."""


class Phase(enum.StrEnum):
    """How far a request got before it failed."""

    NOT_SENT = "not sent"
    SENT = "sent"
    RESPONDED = "responded"


class Effect(enum.Enum):
    """The effect of repeating a request; the retry rules depend on it."""

    READ = "read"
    """Changes nothing."""
    IDEMPOTENT = "idempotent"
    """Leaves the same state however often it is repeated."""
    NON_IDEMPOTENT = "non-idempotent"
    """Adds again each time."""
    COMPLETE = "complete"
    """Buys, sells or ships: sent once."""


@attrs.frozen
class RequestInfo:
    """The request that an error belongs to."""

    method: str
    route: str
    """Path template, never the path with ids."""
    effect: Effect


@dataclass_transform(eq_default=False, field_specifiers=(attrs.field,))
def _error(cls: type[_T]) -> type[_T]:
    # `slots=False`: a slotted exception cannot also inherit TimeoutError (layout conflict).
    # `repr=False`: attrs would print every field, bodies and server texts included.
    return attrs.define(eq=False, slots=False, repr=False)(cls)


@_error
class MintedConnectError(Exception):
    """Base of every error of this library."""

    reason: str
    """What went wrong and what to do about it, free of secrets and personal data."""
    request: RequestInfo | None = attrs.field(default=None, init=False)
    """The request that failed; None if the error belongs to no single request."""
    attempts: int = attrs.field(default=1, init=False)
    """Attempts that were made; 1 if the error belongs to no single request."""
    elapsed: float = attrs.field(default=0.0, init=False)
    """Seconds from the start of the call to the failure."""

    @property
    def method(self) -> str:
        """HTTP method of the request, or an empty string."""
        return self.request.method if self.request else ""

    @property
    def path(self) -> str:
        """Path template of the request, or an empty string."""
        return self.request.route if self.request else ""

    @property
    def safe_to_retry(self) -> bool:
        """Whether repeating the same call cannot do its work twice, and may succeed."""
        return False

    @property
    def _is_repeatable(self) -> bool:
        """Whether repeating the request leaves the same state. False if the request is not known."""
        return self.request is not None and self.request.effect in {Effect.READ, Effect.IDEMPOTENT}

    def __str__(self) -> str:
        return self.reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


@_error
class ConfigurationError(MintedConnectError):
    """An option or a combination of options that cannot work, found before any I/O."""


@_error
class ClientClosedError(MintedConnectError):
    """The client was closed, forked, or belongs to another event loop; the text says which."""


@_error
class NotSent(MintedConnectError):
    """Provably nothing reached the server."""

    @property
    def safe_to_retry(self) -> bool:
        """True: nothing was sent."""
        return True


@_error
class InvalidInput(NotSent, ValueError):
    """An argument breaks a rule; nothing was sent."""

    field: str
    rule: str

    @classmethod
    def of(cls, field: str, rule: str) -> InvalidInput:
        """Build the error from the field's name and the rule it breaks; the value itself is never shown."""
        return cls(f"{field}: {rule}", field, rule)

    @property
    def safe_to_retry(self) -> bool:
        """False: the same argument breaks the same rule again."""
        return False


@_error
class ConnectFailed(NotSent):
    """No connection to the server: name resolution, refusal or connect timeout."""


@_error
class TLSFailed(ConnectFailed):
    """No TLS connection that can be trusted: certificate, host name or protocol version."""

    @property
    def safe_to_retry(self) -> bool:
        """False: a certificate does not mend itself between two tries."""
        return False


@_error
class PoolTimeout(NotSent):
    """Every connection was busy for the whole `Timeouts.pool`."""


@_error
class LimiterTimeout(NotSent):
    """The client-side rate limit would allow the call only after its deadline."""


@_error
class CircuitOpen(NotSent):
    """The circuit breaker is open: the server failed too often a moment ago."""


@_error
class BudgetExhausted(NotSent):
    """The shared retry budget holds too few tokens for another try."""


@_error
class JournalError(NotSent):
    """The journal could not record the intent, so nothing was sent."""


@_error
class FleetError(NotSent):
    """The Redis server that a fleet of feeds shares could not be used; the text names it, without its password."""


@_error
class PriceFixExpired(NotSent):
    """The basket's price lock has ended or ends too soon; read the basket again."""

    @property
    def safe_to_retry(self) -> bool:
        """False: the caller has to look at the new price first."""
        return False


@_error
class PriceChanged(NotSent):
    """The basket now costs something else than `expected_total`."""

    expected: Decimal | None = None
    actual: Decimal | None = None

    @property
    def safe_to_retry(self) -> bool:
        """False: the caller has to agree to the new price first."""
        return False


@_error
class AlreadyInFlight(NotSent):
    """Another task, process or machine is completing this basket, or has completed it."""

    intent_id: str | None = None
    """The intent in the journal that holds the basket."""
    order_id: int | None = None
    """Number of the order that the basket is already."""

    @property
    def safe_to_retry(self) -> bool:
        """False: the other one decides the outcome."""
        return False


@_error
class SinkError(MintedConnectError):
    """Ticks could not be recorded: the file cannot be written, is in use, or holds something else."""


@_error
class TransportError(MintedConnectError):
    """The request left, and no usable answer came."""

    phase: Phase = Phase.SENT

    @property
    def safe_to_retry(self) -> bool:
        """True for reads and for calls whose repetition changes nothing."""
        return self._is_repeatable


@_error
class RequestTimeout(TransportError, TimeoutError):
    """The answer did not come in time."""


@_error
class APIError(MintedConnectError):
    """The server answered, and the answer is no."""

    status: int = 0
    code: int | None = None
    message: str = ""
    request_id: str | None = None
    body: bytes | None = None
    """The raw response, only with `Options.keep_error_bodies`: it can hold personal data."""
    after_unknown: bool = False
    """Whether an earlier attempt of this call may have been carried out, so that a refusal may mean "already done"."""
    retry_after: float | None = None
    """Seconds the server asked to wait, if it did."""
    is_confirmed: bool = False
    """Whether reading back has confirmed that a refused completion was not carried out."""

    @property
    def is_vendor_response(self) -> bool:
        """Whether the response came in the vendor's envelope with a `code`; a gateway may have written any other."""
        return self.code is not None


@_error
class BadRequest(APIError):
    """400: the server did not understand the request."""


@_error
class AuthenticationFailed(APIError):
    """401: the user name or the password is wrong, or a gateway asks for credentials of its own."""

    refused_digest: bool = False
    """Whether the response was a Digest challenge of this server's realm, to a request with a correct digest. Any
    other 401 may come from a gateway."""


@_error
class AuthDowngrade(AuthenticationFailed):
    """The server asks for weaker authentication than before, or for none this library gives."""


@_error
class PermissionDenied(APIError):
    """403: these credentials may not do this."""


@_error
class NotFound(APIError):
    """404: there is no such thing, or not for these credentials."""


@_error
class Conflict(APIError):
    """409: the state of the thing does not allow this."""


@_error
class ValidationFailed(APIError):
    """422: the server names the fields it refuses."""

    fields: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])
    """Messages by request field; those that name no field stand under ``""``."""


@_error
class RateLimited(APIError):
    """429: too many requests. A gateway may have passed the request on before it wrote this."""

    @property
    def safe_to_retry(self) -> bool:
        """True for reads and for calls whose repetition changes nothing."""
        return self._is_repeatable


@_error
class ServerError(APIError):
    """5xx: the server failed; whether it did the work first is not known."""

    @property
    def safe_to_retry(self) -> bool:
        """True for reads and for calls whose repetition changes nothing."""
        return self._is_repeatable


@_error
class ProtocolError(MintedConnectError):
    """An answer that cannot be trusted: not JSON, too large, too deep, or not of the promised shape."""

    problems: tuple[str, ...] = ()
    """What is wrong, each with its path (`data.items[0].sku: required field missing`)."""
    status: int = 0
    request_id: str | None = None
    body: bytes | None = None


@_error
class ResponseTooLarge(ProtocolError):
    """The answer is larger, after decompression, than `Options.max_body`."""


@_error
class UnexpectedRedirect(ProtocolError):
    """3xx: redirects are never followed."""


@_error
class IntegrityError(ProtocolError):
    """The answer is about another customer or another basket."""


@_error
class CompletionRejected(MintedConnectError):
    """A completion whose order failed or was cancelled, or whose refusal was confirmed after the call.

    A refusal that is confirmed during the call raises the `APIError` of the response instead.
    """

    order: Order | None = None
    """The failed order; None if no order was made, or if it cannot be read."""
    refusal: Refusal | None = None
    """The response that refused the completion; None if an order was made."""


@_error
class NotExecuted(MintedConnectError):
    """A completion proven not to have happened; buying again is the caller's decision."""

    intent: Intent | None = None


@_error
class OrderUnreadable(MintedConnectError):
    """A confirmed completion whose order cannot be read; raised by `Completion.require_order` only.

    The basket was bought, sold or shipped: never repeat the completion.
    """

    order_id: int | None = None
    """Number of the order; None if the server did not report one that can be read."""


@_error
class OutcomeUnknown(MintedConnectError):
    """A completion that may have happened: pass this error to `complete.reconcile`, never repeat the completion."""

    intent: Intent
    phase: Phase = Phase.SENT
    evidence: tuple[str, ...] = ()
