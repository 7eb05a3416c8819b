"""Every setting of a client, as frozen data: checked when it is built, shared by siblings, never changed."""

from __future__ import annotations

import hmac
import random
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NoReturn, cast
from urllib.parse import urlsplit

import attrs

from minted_connect.clock import SYSTEM_CLOCK, Clock
from minted_connect.errors import AMBIGUOUS_STATUSES, ConfigurationError
from minted_connect.hooks import Attempt

__all__ = [
    "FEED_BREAKER",
    "LOOPBACK",
    "STAGING",
    "BreakerPolicy",
    "CompletionPolicy",
    "Credentials",
    "Limits",
    "Options",
    "RateLimit",
    "RetryPolicy",
    "Secret",
    "Timeouts",
    "as_secret",
    "check_base_url",
    "check_header",
    "check_proxy_url",
    "check_type",
    "is_seconds",
]

STAGING: Final = "https://api.staging.mintedconnect.com"
"""The vendor's staging server (documented). Production has to be named by the caller."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine, where plain http is no danger."""


_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_MOST: Final = 2**63 - 1


def check_type(name: str, value: object, *kinds: type, optional: bool = False) -> None:
    """Raise ConfigurationError unless `value` is of one of `kinds`, or None where it is `optional`."""
    if not isinstance(value, kinds) and not (optional and value is None):
        allowed = [kind.__name__ for kind in kinds] + ["None"] * optional
        raise ConfigurationError(f"{name}: must be {' or '.join(allowed)}, not {type(value).__name__}")


def is_seconds(value: object) -> bool:
    """Return whether this is a number of seconds above 0, and finite."""
    # Compared with the largest float, and not with infinity: an int may be beyond all floats.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def check_header(name: str, value: str) -> str:
    """Return `value` if it can stand in a request header; raise ConfigurationError if it could break out of it."""
    check_type(name, value, str)
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise ConfigurationError(f"{name}: must be printable ASCII, without line breaks, and without spaces around it")
    return value


_Validator = Callable[[object, "attrs.Attribute[Any]", Any], None]


def _name(instance: object, attribute: attrs.Attribute[Any]) -> str:
    return f"{type(instance).__name__}.{attribute.name}"


def _of(*kinds: type, optional: bool = False) -> _Validator:
    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_type(_name(instance, attribute), value, *kinds, optional=optional)

    return check


def _known_policy(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in ("any", "modern"):
        raise ConfigurationError("Options.digest_policy: must be 'any' or 'modern'")


def _account_name(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    check_type("Options.journal_account", value, str, optional=True)
    if value is not None and (not value.isprintable() or not value or value != value.strip()):
        raise ConfigurationError(
            "Options.journal_account: must not be empty, and printable, without spaces around it, or None"
        )


def _header_safe(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        check_header(f"Options.{attribute.name}", value)


class Secret:
    """A string that does not show itself: `repr` and `str` are ``***``, and it refuses to be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        check_type("a secret", value, str)
        self._value = value

    def reveal(self) -> str:
        """Return the string itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        # Constant time, so that comparing does not leak the secret byte by byte.
        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode(errors="surrogatepass"), other._value.encode(errors="surrogatepass")
        )

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: build the client where it is used")


def as_secret(value: str | Secret) -> Secret:
    """Return a string as a `Secret`; anything else as it is, for others to refuse."""
    return Secret(value) if isinstance(value, str) else value


def _user_name(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError("username: must be a non-empty string")
    if not value.isprintable():
        raise ConfigurationError("username: must be printable, without a line break at its end or elsewhere")


def _pass_word(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    # The cleartext is never bound to a name here: tracebacks with local variables would show it.
    if not isinstance(value, Secret) or not value.reveal():
        raise ConfigurationError("password: must be a non-empty string")
    if value.reveal().endswith(("\n", "\r")):
        raise ConfigurationError("password: must not end in a line break; strip what was read from a file")
    if any("\ud800" <= char <= "\udfff" for char in value.reveal()):
        raise ConfigurationError("password: must be valid Unicode")


@attrs.frozen
class Credentials:
    """User name and password of the partner, as the vendor gave them."""

    username: str = attrs.field(repr=False, validator=_user_name)
    password: Secret = attrs.field(repr=False, converter=as_secret, validator=_pass_word)


def _seconds(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not is_seconds(value):
        raise ConfigurationError(f"{_name(instance, attribute)}: must be seconds above 0, and finite")


def _seconds_or_zero(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None and attribute.default is None:
        return
    if type(value) not in {int, float} or value != 0:
        _seconds(instance, attribute, value)


def _at_least(lowest: int) -> _Validator:
    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _MOST:
            raise ConfigurationError(f"{_name(instance, attribute)}: must be a whole number from {lowest}, below 2**63")

    return check


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long each part of a call may take, in seconds; all of them are finite.

    A short `complete_read` manufactures unknown outcomes: the purchase goes on at the server.
    """

    pool: float = attrs.field(default=5.0, validator=_seconds)
    """Waiting for a free connection."""
    connect: float = attrs.field(default=5.0, validator=_seconds)
    """Name resolution, TCP and TLS handshake; part of `read`."""
    read: float = attrs.field(default=15.0, validator=_seconds)
    """One whole attempt, login round included: from asking for a connection to the last byte of the answer."""
    total: float = attrs.field(default=30.0, validator=_seconds)
    """The deadline of one request: attempts, waits and digest rounds together."""
    complete_read: float = attrs.field(default=45.0, validator=_seconds)
    """As `read`, for completions."""
    complete_total: float = attrs.field(default=60.0, validator=_seconds)
    """As `total`, for completions; reconciliation has its own budget."""


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently a call is repeated; what may be repeated is not a setting.

    The wait before try n is drawn evenly from 0 to `wait_initial` * 2^(n-1), at most `wait_max` (full jitter).
    """

    read_attempts: int = attrs.field(default=3, validator=_at_least(1))
    """Attempts of a call that only reads."""
    write_attempts: int = attrs.field(default=2, validator=_at_least(1))
    """Attempts of a call whose repetition changes nothing."""
    wait_initial: float = attrs.field(default=0.5, validator=_seconds)
    wait_max: float = attrs.field(default=8.0, validator=_seconds)
    budget: int = attrs.field(default=100, validator=_at_least(0))
    """Tokens shared by all calls of a client: 5 a retry, 10 after a timeout, 1 back for a clean success."""

    @classmethod
    def none(cls) -> RetryPolicy:
        """Build a policy that repeats nothing."""
        return cls(read_attempts=1, write_attempts=1, budget=0)


def _least_and_most(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    name = _name(instance, attribute)
    check_type(name, value, tuple, optional=True)
    if value is not None and ([type(bound) for bound in value] != [int, int] or not 0 <= value[0] <= value[1] <= _MOST):
        raise ConfigurationError(f"{name}: must be (least, most), whole numbers from 0, or None")


@attrs.frozen(kw_only=True)
class Limits:
    """Length limits that the vendor's sister families document and Walletable only suggests (inferred).

    Each is (least, most) characters, or None = not checked. `Options(limits=None)` switches all of them off; rules
    that follow from meaning (a whole `qty` from 1) stay.
    """

    external_id: tuple[int, int] | None = attrs.field(default=(3, 40), validator=_least_and_most)
    """Customer id that is being created; checked for its alphabet too."""
    external_customer_id: tuple[int, int] | None = attrs.field(default=(1, 110), validator=_least_and_most)
    """Customer id in every other call."""
    name: tuple[int, int] | None = attrs.field(default=(3, 40), validator=_least_and_most)
    """First, middle and last name; an empty middle name passes."""
    tax_office: tuple[int, int] | None = attrs.field(default=(3, 40), validator=_least_and_most)
    identity_number: tuple[int, int] | None = attrs.field(default=(3, 40), validator=_least_and_most)
    cart_token: tuple[int, int] | None = attrs.field(default=(32, 32), validator=_least_and_most)
    zipcode: tuple[int, int] | None = attrs.field(default=(0, 5), validator=_least_and_most)
    products_per_page: tuple[int, int] | None = attrs.field(default=(5, 100), validator=_least_and_most)
    """Rows, not characters."""
    orders_per_page: tuple[int, int] | None = attrs.field(default=(5, 30), validator=_least_and_most)
    """Rows, not characters."""

    @classmethod
    def off(cls) -> Limits:
        """Build limits that check nothing."""
        return cls(**dict.fromkeys(attrs.fields_dict(cls)))


@attrs.frozen(kw_only=True)
class RateLimit:
    """At most `rate` requests a second on average, `burst` at once (token bucket)."""

    rate: float = attrs.field(validator=_seconds)
    burst: int = attrs.field(default=1, validator=_at_least(1))


@attrs.frozen(kw_only=True)
class BreakerPolicy:
    """Opens after `failures` failed attempts in a row, lets one probe through after `cooldown` seconds."""

    failures: int = attrs.field(default=5, validator=_at_least(1))
    cooldown: float = attrs.field(default=30.0, validator=_seconds)


FEED_BREAKER: Final = BreakerPolicy()
"""The default of a feed of prices: five failed polls in a row, then a probe every half minute."""

_REFUSING: Final = frozenset(range(400, 500)) - AMBIGUOUS_STATUSES - {401}
"""Statuses that may be trusted as refusals: a 401 is judged by its challenge."""
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _statuses(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    name = _name(instance, attribute)
    if not isinstance(value, frozenset):
        raise ConfigurationError(f"{name}: must be a frozenset of HTTP statuses")
    for status in cast("frozenset[object]", value):
        if not isinstance(status, int) or isinstance(status, bool) or status not in _REFUSING:
            raise ConfigurationError(f"{name}: must hold statuses from 400 to 499 only, and neither 401, 408 nor 425")


def _header_name(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _HEADER_NAME.fullmatch(value)):
        raise ConfigurationError(f"{_name(instance, attribute)}: must be the name of a header (RFC 9110 section 5.1)")


def _known_image(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in ("off", "try", "require"):
        raise ConfigurationError("CompletionPolicy.pre_image: must be 'off', 'try' or 'require'")


@attrs.frozen(kw_only=True)
class CompletionPolicy:
    """What stays open until the vendor's staging server has answered it, with the safe answers as defaults.

    Change one only on the strength of an answer from staging or from the vendor: Q1 to Q9 are the open questions of
    the guide to money safety.
    """

    price_fix_margin: float = attrs.field(default=3.0, validator=_seconds)
    """Seconds that have to be left of the price lock when the request goes out (Q3); more if the server is slower than
    that lately. So what a completion after the lock would do never comes to the test."""
    reconcile_budget: float = attrs.field(default=120.0, validator=_seconds)
    """Seconds that `reconcile` reads on before it gives up for now."""
    refusals: frozenset[int] = attrs.field(default=frozenset({422}), validator=_statuses)
    """Statuses that, in the vendor's envelope, are believed after one look at basket and orders (Q2). Every other
    refusal is believed only after `settle_time`. With an empty set, every refusal waits for it."""
    orders_lag: float = attrs.field(default=30.0, validator=_seconds_or_zero)
    """Seconds within which an order that was made, or a basket that was changed, shows in every read (Q5)."""
    inline_looks: float | None = attrs.field(default=None, validator=_seconds_or_zero)
    """Seconds after a refusal in which the call itself looks for the order; None = `settle_time`; 0 = no look, except
    the one after a status of `refusals` if neither `latest_landing` nor `Retry-After` delays it. If they end before the
    refusal is believed, the call raises `OutcomeUnknown`, and `reconcile` settles it later. They also bound the
    read-back of a changed basket or customer, which takes at least one read."""
    order_keeps_number: bool = attrs.field(default=True, validator=_of(bool))
    """Whether an order has the number (`id`) of its basket (Q4). If not, an order of that number is never taken for
    the basket's without a token, guid or order number in common."""
    latest_landing: float | None = attrs.field(default=None, validator=_seconds_or_zero)
    """Seconds after which a completion that was sent can no longer be carried out (Q1, Q3). None = not known: then an
    open basket alone proves nothing, and `settle_time` counts it as 0."""
    fence_proves_not_executed: bool = attrs.field(default=False, validator=_of(bool))
    """Whether a cleared basket makes a late completion fail (Q6), also one that was queued before the basket was
    cleared. While that is not known, `fence=True` never proves anything. The proof is that the basket is empty, so it
    waits for `settle_time`; without `latest_landing` it ends with the first line that is added to the basket again."""
    idempotency_header: str | None = attrs.field(default=None, validator=_header_name)
    """Header in which a completion carries the id of its intent, such as `Idempotency-Key`, once the vendor knows one
    (Q9); None = none."""
    pre_image: Literal["off", "try", "require"] = attrs.field(default="off", validator=_known_image)
    """Whether the customer's latest orders are listed before a completion, so that none of them is ever taken for it:
    one more request. `try` goes on where that fails, `require` does not (`NotSent`)."""

    @property
    def settle_time(self) -> float:
        """Seconds after a response within which an order that it did not report is made and shows in the reads."""
        return self.orders_lag + (self.latest_landing or 0.0)


def _is_clock(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    methods = ("monotonic", "wall", "sleep")
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        raise ConfigurationError("Options.clock: must have the methods of Clock: monotonic, wall and sleep")


def _is_source(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise ConfigurationError("Options.random: must be a function that returns a number in [0, 1)")


def _is_hook(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not callable(value):
        raise ConfigurationError("Options.on_attempt: must be a function that takes an Attempt, or None")


def _by_name(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    check_type("Options.paths", value, Mapping)
    if not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise ConfigurationError("Options.paths: must hold strings only: names of operations and their paths")


@attrs.frozen(kw_only=True)
class Options:
    """What few callers change: corrections of inferred paths, limits, the clock, the size of things."""

    paths: Mapping[str, str] = attrs.field(factory=dict[str, str], validator=_by_name)
    """Corrected path by operation (``{"rates.current": "/partner/walletable/currency-rates"}``)."""
    limits: Limits | None = attrs.field(default=Limits(), validator=_of(Limits, optional=True))
    """Inferred length limits, checked before sending; None = leave them to the server."""
    clock: Clock = attrs.field(default=SYSTEM_CLOCK, validator=_is_clock)
    rate_limit: RateLimit | None = attrs.field(default=None, validator=_of(RateLimit, optional=True))
    breaker: BreakerPolicy | None = attrs.field(default=None, validator=_of(BreakerPolicy, optional=True))
    completion: CompletionPolicy = attrs.field(default=CompletionPolicy(), validator=_of(CompletionPolicy))
    """How completions and reconciliation treat what the vendor has not answered yet."""
    journal_account: str | None = attrs.field(default=None, repr=False, validator=_account_name)
    """Name of the account that intents in the journal belong to; None = server and user name stand for it.

    Set it before the user name or the host of the server changes: intents of another account are neither read back nor
    fenced, and do not keep a basket from being completed again. Use one name for one account, in every process that
    shares its journal, and a different one for each account. `complete.adopt` assigns an intent that was written under
    another name."""
    digest_policy: Literal["any", "modern"] = attrs.field(default="any", validator=_known_policy)
    """``modern`` refuses MD5 and challenges without qop."""
    keep_error_bodies: bool = attrs.field(default=False, validator=_of(bool))
    """Keep the raw body on errors (`.body`). It can hold personal data."""
    pool_size: int = attrs.field(default=20, validator=_at_least(1))
    """Requests in flight at once; completions have connections of their own."""
    keepalive: float = attrs.field(default=15.0, validator=_seconds)
    """Seconds an idle connection is kept."""
    max_body: int = attrs.field(default=8 * 1024 * 1024, validator=_at_least(1024))
    """Largest answer in bytes, after decompression."""
    max_depth: int = attrs.field(default=64, validator=_at_least(8))
    """Deepest nesting of an answer."""
    user_agent: str | None = attrs.field(default=None, validator=_header_safe)
    """What `User-Agent` says; None = this library and its version."""
    random: Callable[[], float] = attrs.field(default=random.random, repr=False, validator=_is_source)
    """Source of jitter, in [0, 1)."""
    on_attempt: Callable[[Attempt], object] | None = attrs.field(default=None, repr=False, validator=_is_hook)
    """Called after each attempt, on the event loop and in the context of the caller: it must not block. What it raises
    is logged and goes no further. `minted_connect.otel` has one."""


def check_base_url(url: str) -> str:
    """Validate a base URL; lower the case of its host, and strip the default port and the trailing slash.

    Plain HTTP is allowed for localhost only. User info, query and fragment are rejected.

    Raises:
        ConfigurationError: the URL is not absolute http(s), carries user info, a query or a fragment, or is
            plain http to another machine.
    """
    check_type("base_url", url, str)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError("base_url: is not a URL") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("base_url: must be an absolute http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url: must hold no user name or password; give them as arguments")
    if set("?# \\") & set(url) or not url.isascii() or not url.isprintable():
        raise ConfigurationError("base_url: must hold no query, fragment, space or unprintable character")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ConfigurationError("base_url: plain http is allowed to this machine only; use https")
    # One server has one spelling here, because the journal tells servers and accounts apart by it.
    place = parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


def check_proxy_url(url: Secret) -> Secret:
    """Return the URL of a proxy; it may carry user name and password.

    Raises:
        ConfigurationError: not an absolute http(s) URL.
    """
    if not isinstance(url, Secret):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"proxy: must be str or None, not {type(url).__name__}")
    # Looked at elsewhere: here tracebacks with local variables would show the password.
    if not _is_http_url(url):
        raise ConfigurationError("proxy: must be an absolute http or https URL")
    return url


def _is_http_url(secret: Secret) -> bool:
    url = secret.reveal()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and url.isprintable()
