"""HTTP Digest authentication (RFC 7616), the client's side, free of I/O.

One `DigestAuth` serves one origin. Each call opens an `AuthFlow`, which says what to put into `Authorization`
and, after a 401, whether to send again:

    async with auth.exchange() as exchange:
        while True:
            response = await send(authorization=exchange.header(method, target, body))
            if response.status != 401:
                exchange.on_success(response.headers.getall("Authentication-Info", ()))
                break
            if not exchange.on_challenge(response.headers.getall("WWW-Authenticate", ())):
                raise AuthenticationFailed

The rules behind `challenged`:
- One signed re-send answers the challenge to an unsigned request; one more answers `stale=true`.
- A 401 without `stale` to a nonce that calls share may only mean that the server forgot it (a restart): one re-send
  with the nonce of that 401. The same answer to a nonce fresh from this call's own challenge means that the
  credentials are wrong; from then on, until a success, no call gets a second try.
- A call signs again with the nonce of its own challenge and shares it after use, so calls that renew at the same time
  cannot use up each other's nonces.
"""

import asyncio
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final, Literal, NoReturn, Protocol, Self
from urllib.parse import quote

import attrs

__all__ = ["AuthFlow", "Challenge", "ChallengeRefused", "DigestAuth", "Policy", "Signer", "Terms", "parse_challenges"]

Policy = Literal["any", "modern"]


class _Hash(Protocol):
    def hexdigest(self) -> str: ...


def _available() -> Iterator[tuple[str, Callable[[bytes], _Hash]]]:
    """Yield what this OpenSSL has, weakest first: it may lack SHA-512/256, and refuses MD5 in FIPS mode."""
    for label, name in (("MD5", "md5"), ("SHA-256", "sha256"), ("SHA-512-256", "sha512_256")):
        # The constructors are faster than `hashlib.new`, but SHA-512/256 has none.
        make: Callable[[bytes], _Hash] = getattr(hashlib, name, None) or partial(hashlib.new, name)
        try:
            make(b"")
        except ValueError:
            continue
        yield label, make


_HASHES: Final = dict(_available())
_STRENGTH: Final = {"MD5": 0, "SHA-256": 1, "SHA-512-256": 2}
_QOP_STRENGTH: Final = {"": 0, "auth": 1, "auth-int": 2}
_QOP_PREFERENCE: Final = ("", "auth-int", "auth")  # auth-int hashes every body, and TLS already protects it

# How many leaders a waiting call lets fail before it goes ahead unsigned: behind a dead server, callers must not
# queue up for the sum of each other's timeouts.
_PATIENCE: Final = 2

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_PIECE: Final = re.compile(
    rf"""
      (?P<name>{_WORD}) [ \t]*+ = [ \t]*+ (?: "(?P<quoted>(?:[^"\\]|\\.)*+)" | (?P<bare>[^\s,"]++) )
    | (?P<scheme>{_WORD}) [ \t]++ (?!,|\Z) (?: [A-Za-z0-9\-._~+/]++ =*+ (?=[ \t]*+(?:,|\Z)) )?  # with a token68
    | {_WORD}  # a scheme without parameters, or garbage: taken whole, for linear time
    """,
    re.VERBOSE,
)
_unescape: Final = partial(re.compile(r"\\(.)").sub, r"\1")
_escape: Final = partial(re.compile(r'(["\\])').sub, r"\\\1")
_is_wire_target: Final = re.compile(r"[!#-\[\]-~]+").fullmatch


class ChallengeRefused(ValueError):
    """No acceptable way to authenticate was offered; `reason` holds nothing secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Challenge:
    """One Digest challenge of a `WWW-Authenticate` field (RFC 7616 section 3.3)."""

    realm: str
    nonce: str
    opaque: str | None = None
    #: As the server spells it (it is echoed); None when left out, which means MD5.
    algorithm: str | None = None
    #: Lower case, in the server's order; empty is the legacy form of RFC 2069.
    qop: tuple[str, ...] = ()
    stale: bool = False
    userhash: bool = False
    charset: str | None = None
    domain: tuple[str, ...] = ()

    @property
    def hash_name(self) -> str:
        """The hash function: `algorithm` in upper case without "-sess"."""
        return (self.algorithm or "MD5").upper().removesuffix("-SESS")

    @property
    def is_session(self) -> bool:
        """Whether this is a "-sess" algorithm."""
        return (self.algorithm or "").upper().endswith("-SESS")


@attrs.frozen
class Terms:
    """What the first success pins: later challenges must be for the same realm and no weaker.

    A "-sess" form counts as strong as its base: it hides HA1 from a third party that verifies, nothing else.
    """

    realm: str
    hash_name: str
    qop: str

    def is_at_least(self, other: "Terms") -> bool:
        """Return whether `other` is at least as strong as this."""
        hash_name, qop = _STRENGTH[other.hash_name], _QOP_STRENGTH[other.qop]
        return hash_name >= _STRENGTH[self.hash_name] and qop >= _QOP_STRENGTH[self.qop]


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Return the Digest challenges among all `WWW-Authenticate` values, in order (RFC 9110 section 11.6.1).

    Other schemes and what cannot be read are skipped. A repeated parameter keeps its first value.
    """
    found: list[dict[str, str]] = []
    for value in values:
        params: dict[str, str] = {}
        for piece in _PIECE.finditer(value):
            if scheme := piece["scheme"]:
                params = {}
                if scheme.lower() == "digest":
                    found.append(params)
            elif name := piece["name"]:
                params.setdefault(name.lower(), _value(piece))
    return [challenge for params in found if (challenge := _challenge(params))]


def _value(piece: re.Match[str]) -> str:
    return piece["bare"] or _unescape(piece["quoted"] or "")


def _challenge(params: dict[str, str]) -> Challenge | None:
    # What is echoed must survive the trip back: no control characters, and no bytes that were not UTF-8 (they
    # arrive as lone surrogates, which no header can carry).
    if "realm" not in params or not all(params.get(name, "").isprintable() for name in ("realm", "nonce", "opaque")):
        return None
    return Challenge(
        realm=params["realm"],
        nonce=params.get("nonce", ""),
        opaque=params.get("opaque"),
        algorithm=params.get("algorithm"),
        qop=tuple(params.get("qop", "").lower().replace(",", " ").split()),
        stale=params.get("stale", "").lower() == "true",
        userhash=params.get("userhash", "").lower() == "true",
        charset=params.get("charset"),
        domain=tuple(params.get("domain", "").split()),
    )


def _choose(challenges: list[Challenge], policy: Policy, pinned: Terms | None) -> tuple[Challenge, Terms]:
    """Pick the strongest acceptable challenge and qop; plain before "-sess", then the server's order."""
    rules: tuple[tuple[Callable[[Challenge, Terms], bool], str], ...] = (
        (lambda challenge, _: bool(challenge.nonce), "the Digest challenge has no nonce"),
        (lambda _, terms: terms.hash_name in _HASHES, "no Digest algorithm on offer is supported"),
        (lambda _, terms: terms.qop in _QOP_STRENGTH, "no quality of protection on offer is supported"),
        (
            lambda _, terms: policy == "any" or (terms.hash_name != "MD5" and terms.qop != ""),
            "only MD5 or a challenge without qop is on offer, which the policy 'modern' refuses",
        ),
        (lambda _, terms: not pinned or terms.realm == pinned.realm, "the challenge is for another realm than before"),
        (
            lambda _, terms: not pinned or pinned.is_at_least(terms),
            "the challenge is weaker than the one accepted before",
        ),
    )
    offers = [
        (challenge, Terms(challenge.realm, challenge.hash_name, qop))
        for challenge in challenges
        for qop in challenge.qop or ("",)
    ]
    if not offers:
        raise ChallengeRefused("no Digest authentication is on offer")
    for acceptable, reason in rules:
        offers = [offer for offer in offers if acceptable(*offer)]
        if not offers:
            raise ChallengeRefused(reason)
    return max(
        offers,
        key=lambda offer: (
            _STRENGTH[offer[1].hash_name],
            _QOP_PREFERENCE.index(offer[1].qop),
            not offer[0].is_session,
        ),
    )


class _Secretive:
    """Keeps credentials out of reprs, pickles and copies."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds credentials and cannot be pickled or copied")


class Signer(_Secretive):
    """Signs requests with one nonce.

    One cnonce per nonce is enough, since `nc` already makes each response unique, and it is what "-sess" needs: its
    HA1 contains the first cnonce, and servers disagree on whether they keep that or read the current one.
    """

    __slots__ = ("_after", "_before", "_count", "_hash", "_prefix", "challenge", "terms")

    def __init__(self, challenge: Challenge, terms: Terms, user: str, ha1: str) -> None:
        self.challenge: Challenge = challenge
        self.terms: Terms = terms
        self._hash = _HASHES[terms.hash_name]
        self._count = count(1)
        cnonce = secrets.token_urlsafe(12)
        if challenge.is_session:
            ha1 = self._hash(f"{ha1}:{challenge.nonce}:{cnonce}".encode()).hexdigest()
        self._before = f"{ha1}:{challenge.nonce}:"
        self._after = f":{cnonce}:{terms.qop}:"
        prefix = f'Digest {user}, realm="{_escape(challenge.realm)}", nonce="{_escape(challenge.nonce)}", '
        if challenge.algorithm is not None:
            prefix += f"algorithm={challenge.algorithm}, "
        if challenge.opaque is not None:
            prefix += f'opaque="{_escape(challenge.opaque)}", '
        if terms.qop:
            prefix += f"qop={terms.qop}, "
        if terms.qop or challenge.is_session:
            prefix += f'cnonce="{cnonce}", '
        self._prefix = prefix

    def header(self, method: str, target: str, body: bytes = b"") -> str:
        """Return the `Authorization` value for the next request (RFC 7616 section 3.4).

        `target` is the path and query exactly as they go on the wire.
        """
        if not _is_wire_target(target):
            raise ValueError("the request target must be percent-encoded ASCII")
        make, qop = self._hash, self.terms.qop
        a2 = f"{method}:{target}"
        if qop == "auth-int":
            a2 = f"{a2}:{make(body).hexdigest()}"
        ha2 = make(a2.encode()).hexdigest()
        if not qop:
            response = make(f"{self._before}{ha2}".encode()).hexdigest()
            return f'{self._prefix}uri="{target}", response="{response}"'
        nc = f"{next(self._count):08x}"
        response = make(f"{self._before}{nc}{self._after}{ha2}".encode()).hexdigest()
        return f'{self._prefix}uri="{target}", nc={nc}, response="{response}"'


class _Shared(_Secretive):
    """What the calls to one origin share: the credentials, the nonce in use, and what is known about them."""

    __slots__ = ("_ha1", "_password", "_username", "leader", "pinned", "policy", "rejected", "signer")

    def __init__(self, username: str, password: str | Callable[[], str], policy: Policy) -> None:
        self._username = username
        self._password = password
        self._ha1: tuple[tuple[str, str, bool], str] | None = None  # one: servers settle on a realm and an algorithm
        self.policy: Final = policy
        self.signer: Signer | None = None
        self.leader: asyncio.Event | None = None  # set when the call that fetches the first challenge is done
        self.rejected: bool = False  # whether the last thing known about the credentials is that they are wrong
        self.pinned: Terms | None = None

    def sign_with(self, challenge: Challenge, terms: Terms) -> Signer:
        def text(value: str) -> str:
            return unicodedata.normalize("NFC", value) if utf8 else value

        utf8 = (challenge.charset or "").upper() == "UTF-8"
        make, name = _HASHES[terms.hash_name], text(self._username)
        key = (terms.realm, terms.hash_name, utf8)
        if not self._ha1 or self._ha1[0] != key:
            password = self._password if isinstance(self._password, str) else self._password()
            self._ha1 = key, make(f"{name}:{terms.realm}:{text(password)}".encode()).hexdigest()
        if challenge.userhash:
            user = f'username="{make(f"{name}:{terms.realm}".encode()).hexdigest()}", userhash=true'
        elif utf8 and not name.isascii():
            user = f"username*=UTF-8''{quote(name, safe='')}"
        else:
            user = f'username="{_escape(name)}"'
        return Signer(challenge, terms, user, self._ha1[1])

    def pin(self, terms: Terms) -> None:
        if self.pinned is None or (self.pinned.realm == terms.realm and self.pinned.is_at_least(terms)):
            self.pinned = terms


class DigestAuth(_Secretive):
    """The credentials for one origin, and the nonce its calls share.

    Names and passwords are always hashed as UTF-8, in form NFC when the server says `charset=UTF-8`. The password is
    asked for once per realm and algorithm; after that only HA1 is needed.

    Args:
        username: Sent as UTF-8, as `username*` where the server offers that, or hashed where it asks for that.
        password: The password, or a function that returns it.
        policy: "modern" refuses MD5 and challenges without qop; "any" takes the best on offer.
    """

    __slots__ = ("_shared",)

    def __init__(self, username: str, password: str | Callable[[], str], *, policy: Policy = "any") -> None:
        if not username.isprintable():
            raise ValueError("the user name holds characters that no header can carry")
        self._shared = _Shared(username, password, policy)

    @property
    def pinned(self) -> Terms | None:
        """What the first success settled; None before that."""
        return self._shared.pinned

    def exchange(self) -> "AuthFlow":
        """Return the authentication of one call, to be entered with `async with`."""
        return AuthFlow(self._shared)


class AuthFlow(_Secretive):
    """The authentication of one call; `DigestAuth.exchange` makes it.

    Entering waits while another call fetches the first challenge, so a cold burst of N calls makes N + 1 requests.
    The wait can be cancelled. When the leading call ends without a challenge, exactly one waiting call leads next.
    """

    __slots__ = ("_leads", "_own", "_renewed", "_shared", "_signer", "_superseded")

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._leads: asyncio.Event | None = None
        self._signer: Signer | None = None
        self._own = False  # whether the signer comes from a challenge to this very call
        self._renewed = False
        self._superseded: Signer | None = None  # the shared signer that this call may replace

    async def __aenter__(self) -> Self:
        shared = self._shared
        for _ in range(_PATIENCE):
            if shared.signer or not shared.leader:
                break
            await shared.leader.wait()
        if not shared.signer and not shared.leader:
            self._leads = shared.leader = asyncio.Event()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._share()
        self._release()

    def header(self, method: str, target: str, body: bytes = b"") -> str | None:
        """Return the `Authorization` value, or None as long as no challenge is known.

        Build it right before sending: every value is good for one request.
        """
        if self._signer is None:
            self._signer = self._shared.signer
        return self._signer.header(method, target, body) if self._signer else None

    def on_challenge(self, values: Sequence[str]) -> bool:
        """Return whether to send again after a 401, given all its `WWW-Authenticate` values.

        Raises:
            ChallengeRefused: None of the challenges is acceptable.
        """
        if not values:  # the application's own 401: nothing to answer
            return False
        shared, used = self._shared, self._signer
        challenge, terms = _choose(parse_challenges(values), shared.policy, shared.pinned)
        if shared.signer is used:
            self._superseded = used
        if used is None:
            again = True
        elif challenge.stale:
            again, self._renewed = not self._renewed, True
        else:
            spent = used is shared.signer and shared.pinned is not None  # a good nonce, used up by other calls
            again = (spent or not self._own) and not shared.rejected
            shared.rejected = not again
        self._signer, self._own = shared.sign_with(challenge, terms), True
        if shared.signer is None:
            self._share()
        return again

    @property
    def is_pinned(self) -> bool:
        """Whether a request has succeeded with Digest, so that challenges of another realm are refused."""
        return self._shared.pinned is not None

    def on_success(self, authentication_info: Sequence[str] = ()) -> None:
        """Note that the request got past authentication: any answer except 401, 429 and 5xx.

        Args:
            authentication_info: All values of that field. `nextnonce` is followed (RFC 7616 section 3.5), except for
                "-sess", whose HA1 stays tied to the nonce it began with. `rspauth` is not checked.
        """
        self._release()
        shared, signer = self._shared, self._signer
        if signer is None:
            return
        shared.rejected = False
        if signer.terms is not shared.pinned:
            shared.pin(signer.terms)
        self._share()
        if authentication_info and shared.signer is signer and not signer.challenge.is_session:
            pieces = (piece for value in authentication_info for piece in _PIECE.finditer(value) if piece["name"])
            nonce = next((_value(piece) for piece in pieces if piece["name"].lower() == "nextnonce"), "")
            if nonce and nonce.isprintable():
                shared.signer = shared.sign_with(attrs.evolve(signer.challenge, nonce=nonce), signer.terms)

    def _share(self) -> None:
        shared = self._shared
        if self._own and shared.signer is self._superseded:
            shared.signer = self._signer
            if shared.leader:  # whoever got the first challenge, nobody has to wait for another
                shared.leader.set()

    def _release(self) -> None:
        if self._leads:
            self._shared.leader = None
            self._leads.set()
            self._leads = None
