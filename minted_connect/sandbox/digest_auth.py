"""An I/O-free verifier of HTTP Digest (RFC 7616): it issues challenges and judges answers.

Written from the RFC, independently of any client. The vendor's realm, algorithm, qop and nonce lifetime are not
known (walletable.md, question S1): everything is an option, the defaults are working assumptions.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from attrs import define, field, frozen

from .clock import Monotonic, elapsed

ALGORITHMS = ("MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess")
QOPS = (None, "auth", "auth-int", "auth,auth-int")

_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
_PAIR = re.compile(r'(([A-Za-z*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,[\s,]*|$))')
_ESCAPE = re.compile(r"\\(.)")
_NC = re.compile(r"[0-9a-fA-F]{8}")
_REMEMBERED = 100_000  # nonces; older ones are forgotten and read as unknown


@frozen
class DigestResult:
    """What the doorman thinks of one request.

    Attributes:
        status: 200 to let it pass, 401, or 400 when the digest was made for another target (RFC 7616, 3.4).
        username: the partner, set only when `status` is 200.
        stale: the digest is right, only its nonce is not good any more.
        reason: why not, for logs and tests.
        nonce: the nonce used, if any.
        nc: its count, if any.
    """

    status: int
    username: str | None = None
    stale: bool = False
    reason: str = ""
    nonce: str | None = None
    nc: int | None = None


@define
class _Nonce:
    """A nonce given out, and the counts it was used with: all up to `floor`, and those in `ahead`."""

    issued: float
    era: int
    uses: int = 0
    floor: int = 0
    ahead: set[int] = field(factory=set[int])

    def seen(self, count: int) -> bool:
        return count <= self.floor or count in self.ahead

    def highest(self) -> int:
        return max(self.ahead, default=self.floor)

    def note(self, count: int) -> None:
        self.uses += 1
        self.ahead.add(count)
        while self.floor + 1 in self.ahead:
            self.floor += 1
            self.ahead.remove(self.floor)


def digest(algorithm: str, data: bytes) -> str:
    """Return the lower-case hex digest of `data`; `-sess` does not change the hash."""
    return hashlib.new(_HASHES[algorithm.removesuffix("-sess")], data, usedforsecurity=False).hexdigest()


def parse_authorization(header: str) -> dict[str, str] | None:
    """Read the parameters of a `Digest` header, names in lower case; None if it is not one."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "digest" or not rest.isprintable():  # lone surrogates cannot be hashed
        return None
    rest = rest.strip()
    pairs: list[tuple[str, str, str, str]] = _PAIR.findall(rest)
    if not rest or "".join([whole for whole, *_ in pairs]) != rest:
        return None
    found: dict[str, str] = {}
    for _, name, quoted, token in pairs:
        key = name.lower()
        if key in found:
            return None
        found[key] = token or (_ESCAPE.sub(r"\1", quoted) if "\\" in quoted else quoted)
    return found


def expected_response(
    ha1: str, ha2: str, *, algorithm: str, nonce: str, qop: str | None = None, nc: str = "", cnonce: str = ""
) -> str:
    """Compute the `response` parameter (RFC 7616, 3.4.1; without qop as RFC 2069)."""
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return digest(algorithm, f"{ha1}:{middle}:{ha2}".encode())


class DigestVerifier:
    """Knows the partners, gives out nonces and checks answers.

    Args:
        clock: its `elapsed()`, else its `monotonic()`, decides when a nonce is over.
        realm: shown in every challenge.
        algorithms: offered, in this order, each in a `WWW-Authenticate` line of its own.
        qop: `auth`, `auth-int`, `auth,auth-int`, or None for the legacy challenge without qop.
        nonce_lifetime: seconds.
        nonce_uses: requests per nonce, None for any number.
        strict_nc: counts must increase, instead of only never repeat.
        basic_first: put a `Basic` line before the others, as some proxies do.
    """

    def __init__(
        self,
        clock: Monotonic,
        *,
        realm: str = "Minted Connect",
        algorithms: Sequence[str] = ("SHA-256", "MD5"),
        qop: str | None = "auth",
        nonce_lifetime: float = 300.0,
        nonce_uses: int | None = None,
        strict_nc: bool = False,
        basic_first: bool = False,
    ) -> None:
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown or not algorithms:
            raise ValueError(f"algorithms must be some of {ALGORITHMS}, not {list(algorithms)}")
        if qop not in QOPS:
            raise ValueError(f"qop must be one of {QOPS}, not {qop!r}")
        if qop is None and any(name.endswith("-sess") for name in algorithms):
            raise ValueError("-sess needs a qop: without one the client sends no cnonce")
        self.realm = realm
        self.algorithms: tuple[str, ...] = tuple(algorithms)
        self.qop = qop
        self.nonce_lifetime = nonce_lifetime
        self.nonce_uses = nonce_uses
        self.strict_nc = strict_nc
        self.basic_first = basic_first
        self.opaque: str = secrets.token_hex(16)
        self._clock = clock
        self._qops = tuple(qop.split(",")) if qop else ()
        self._passwords: dict[str, str] = {}
        self._ha1: dict[tuple[str, str], str] = {}
        self._nonces: dict[str, _Nonce] = {}
        self._era = 0

    def add(self, username: str, password: str) -> None:
        """Let a partner in; a second call changes the password."""
        if not username:
            raise ValueError("a username must not be empty")
        if ":" in username:
            raise ValueError("a username must not contain a colon")
        self._passwords[username] = password
        for algorithm in self.algorithms:
            secret = f"{username}:{self.realm}:{password}".encode()
            self._ha1[username, algorithm] = digest(algorithm, secret)

    def rotate_nonces(self) -> None:
        """Invalidate every nonce given out so far: their next use is answered with `stale=true`."""
        self._era += 1

    def challenges(self, *, stale: bool = False) -> list[str]:
        """Return the values of the `WWW-Authenticate` lines of a new challenge."""
        nonce = secrets.token_urlsafe(24)
        self._nonces[nonce] = _Nonce(elapsed(self._clock), self._era)
        while len(self._nonces) > _REMEMBERED:
            del self._nonces[next(iter(self._nonces))]
        lines = [f'Basic realm="{self.realm}"'] if self.basic_first else []
        for algorithm in self.algorithms:
            parts = [f'realm="{self.realm}"', f'nonce="{nonce}"', f'opaque="{self.opaque}"']
            if self.qop:
                parts.append(f'qop="{self.qop}"')
            parts.append(f"algorithm={algorithm}")
            if stale:
                parts.append("stale=true")
            lines.append("Digest " + ", ".join(parts))
        return lines

    def wants_body(self, authorization: str | None) -> bool:
        """Tell whether this answer can only be checked with the body at hand (`auth-int`)."""
        return "auth-int" in self._qops and authorization is not None and "auth-int" in authorization

    def check(self, method: str, target: str, authorization: str | None, body: bytes = b"") -> DigestResult:
        """Judge one request.

        Args:
            method: as on the request line.
            target: path and query exactly as on the request line.
            authorization: the header's value, None when absent.
            body: needed when `wants_body()` says so.
        """
        if authorization is None:
            return DigestResult(401, reason="no credentials")
        given = parse_authorization(authorization)
        if given is None:
            return DigestResult(401, reason="not a digest")
        nonce = given.get("nonce", "")
        algorithm = given.get("algorithm", "MD5")
        username = given.get("username", "")
        reason = self._refusal(given, algorithm)
        if reason:
            return DigestResult(401, reason=reason, nonce=nonce)
        if given.get("uri") != target:
            return DigestResult(400, reason="uri is not the request target", nonce=nonce)

        qop, nc, cnonce = given.get("qop"), given.get("nc", ""), given.get("cnonce", "")
        ha1 = self._ha1.get((username, algorithm)) or digest(algorithm, secrets.token_bytes(16))
        if algorithm.endswith("-sess"):
            ha1 = digest(algorithm, f"{ha1}:{nonce}:{cnonce}".encode())
        a2 = f"{method}:{target}"
        if qop == "auth-int":
            a2 += ":" + digest(algorithm, body)
        wanted = expected_response(
            ha1, digest(algorithm, a2.encode()), algorithm=algorithm, nonce=nonce, qop=qop, nc=nc, cnonce=cnonce
        )
        known = self._nonces.get(nonce)
        right = hmac.compare_digest(wanted.encode(), given.get("response", "").encode())
        if not right or username not in self._passwords:
            return DigestResult(401, reason="wrong digest", nonce=nonce)
        if known is None:
            return DigestResult(401, reason="unknown nonce", nonce=nonce)
        return self._count(known, nonce, int(nc, 16) if qop else None, username)

    def _refusal(self, given: dict[str, str], algorithm: str) -> str:
        """Say what is wrong with the parameters, before any hashing; "" when nothing is."""
        qop = given.get("qop")
        if algorithm not in self.algorithms:
            return "algorithm not offered"
        if given.get("realm") != self.realm:
            return "another realm"
        if given.get("opaque") != self.opaque:
            return "opaque not returned"
        if (qop or None) not in (self._qops or (None,)):
            return "qop not offered"
        if qop and (not _NC.fullmatch(given.get("nc", "")) or not given.get("cnonce")):
            return "nc or cnonce missing"
        return ""

    def _count(self, known: _Nonce, nonce: str, count: int | None, username: str) -> DigestResult:
        """Judge the nonce of an otherwise right digest."""
        if known.era != self._era:
            return DigestResult(401, stale=True, reason="nonce rotated", nonce=nonce, nc=count)
        if elapsed(self._clock) - known.issued >= self.nonce_lifetime:
            return DigestResult(401, stale=True, reason="nonce expired", nonce=nonce, nc=count)
        if self.nonce_uses is not None and known.uses >= self.nonce_uses:
            return DigestResult(401, stale=True, reason="nonce used up", nonce=nonce, nc=count)
        if count is None:
            known.uses += 1
        elif count == 0 or known.seen(count) or (self.strict_nc and count <= known.highest()):
            # As Apache's mod_auth_digest: a repeated count is a replay, not a stale nonce.
            return DigestResult(401, reason="nc replayed", nonce=nonce, nc=count)
        else:
            known.note(count)
        return DigestResult(200, username=username, nonce=nonce, nc=count)
