"""Server side of HTTP Digest (RFC 7616), without I/O: issues challenges and verifies `Authorization` headers.

Written from the RFC, independently of the client. The vendor's realm, algorithm, qop and nonce lifetime are not known
(evidence guide, "Common to all operations" and S1): all of them are options, and the defaults are working assumptions.
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
_MAX_NONCES = 100_000  # beyond this the oldest nonce is forgotten, and its next use is an unknown nonce


@frozen
class DigestResult:
    """The result of verifying one request.

    Attributes:
        status: 200 if the credentials are valid, else 401, or 400 if `uri` is not the request target (RFC 7616, 3.4).
        username: the partner; None unless `status` is 200.
        stale: the digest is right, but its nonce has expired or was replaced or used up.
        reason: why the credentials are not valid, for tests; "" if they are.
        nonce: the nonce used, if any.
        nc: the nonce count, if any.
    """

    status: int
    username: str | None = None
    stale: bool = False
    reason: str = ""
    nonce: str | None = None
    nc: int | None = None


@define
class _Nonce:
    """An issued nonce. The counts it was used with are all those up to `floor`, and those in `above_floor`."""

    issued: float
    generation: int
    uses: int = 0
    floor: int = 0
    above_floor: set[int] = field(factory=set[int])

    def has_seen(self, count: int) -> bool:
        return count <= self.floor or count in self.above_floor

    def highest(self) -> int:
        return max(self.above_floor, default=self.floor)

    def add(self, count: int) -> None:
        self.uses += 1
        self.above_floor.add(count)
        while self.floor + 1 in self.above_floor:
            self.floor += 1
            self.above_floor.remove(self.floor)


def digest(algorithm: str, data: bytes) -> str:
    """Return the lower-case hex digest of `data`; `MD5-sess` uses the same hash as `MD5`, and so on."""
    return hashlib.new(_HASHES[algorithm.removesuffix("-sess")], data, usedforsecurity=False).hexdigest()


def parse_authorization(header: str) -> dict[str, str] | None:
    """Return the parameters of a `Digest` header, names in lower case; None if the header is malformed."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "digest" or not rest.isprintable():  # a lone surrogate cannot be hashed
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
    """Compute the `response` parameter (RFC 7616, 3.4.1; without qop as in RFC 2069)."""
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return digest(algorithm, f"{ha1}:{middle}:{ha2}".encode())


class DigestVerifier:
    """Issues challenges and verifies the credentials of partners.

    Args:
        clock: its `elapsed()`, or its `monotonic()` if it has no `elapsed()`, measures the age of nonces.
        realm: realm of the challenges.
        algorithms: the algorithms offered, in this order.
        qop: the qop offered.
        nonce_lifetime: seconds until a nonce expires.
        nonce_uses: maximum number of requests with one nonce.
        strict_nc: whether nonce counts must increase.
        basic_first: whether to send a `Basic` challenge, too.
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
        self._generation = 0

    def add(self, username: str, password: str) -> None:
        """Add a partner, or change the password of one."""
        if not username:
            raise ValueError("a username must not be empty")
        if ":" in username:
            raise ValueError("a username must not contain a colon")
        self._passwords[username] = password
        for algorithm in self.algorithms:
            secret = f"{username}:{self.realm}:{password}".encode()
            self._ha1[username, algorithm] = digest(algorithm, secret)

    def rotate_nonces(self) -> None:
        """Invalidate all issued nonces: the response to their next use has `stale=true`."""
        self._generation += 1

    def challenges(self, *, stale: bool = False) -> list[str]:
        """Issue a nonce; return the values of the `WWW-Authenticate` headers."""
        nonce = secrets.token_urlsafe(24)
        self._nonces[nonce] = _Nonce(elapsed(self._clock), self._generation)
        while len(self._nonces) > _MAX_NONCES:
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

    def needs_body(self, authorization: str | None) -> bool:
        """Return whether verifying this header needs the body of the request (`auth-int`)."""
        return "auth-int" in self._qops and authorization is not None and "auth-int" in authorization

    def check(self, method: str, target: str, authorization: str | None, body: bytes = b"") -> DigestResult:
        """Verify the credentials of one request.

        Args:
            method: the method in the request line.
            target: path and query exactly as in the request line.
            authorization: value of the header; None if it is absent.
            body: the body of the request, if `needs_body()`.
        """
        if authorization is None:
            return DigestResult(401, reason="no credentials")
        params = parse_authorization(authorization)
        if params is None:
            return DigestResult(401, reason="not a digest")
        nonce = params.get("nonce", "")
        algorithm = params.get("algorithm", "MD5")
        username = params.get("username", "")
        reason = self._check_params(params, algorithm)
        if reason:
            return DigestResult(401, reason=reason, nonce=nonce)
        if params.get("uri") != target:
            return DigestResult(400, reason="uri is not the request target", nonce=nonce)

        qop, nc, cnonce = params.get("qop"), params.get("nc", ""), params.get("cnonce", "")
        ha1 = self._ha1.get((username, algorithm)) or digest(algorithm, secrets.token_bytes(16))
        if algorithm.endswith("-sess"):
            ha1 = digest(algorithm, f"{ha1}:{nonce}:{cnonce}".encode())
        a2 = f"{method}:{target}"
        if qop == "auth-int":
            a2 += ":" + digest(algorithm, body)
        expected = expected_response(
            ha1, digest(algorithm, a2.encode()), algorithm=algorithm, nonce=nonce, qop=qop, nc=nc, cnonce=cnonce
        )
        known = self._nonces.get(nonce)
        is_right = hmac.compare_digest(expected.encode(), params.get("response", "").encode())
        if not is_right or username not in self._passwords:
            return DigestResult(401, reason="wrong digest", nonce=nonce)
        if known is None:
            return DigestResult(401, reason="unknown nonce", nonce=nonce)
        return self._use_nonce(known, nonce, int(nc, 16) if qop else None, username)

    def _check_params(self, params: dict[str, str], algorithm: str) -> str:
        """Return why the parameters are not valid, without hashing; "" if they are."""
        qop = params.get("qop")
        if algorithm not in self.algorithms:
            return "algorithm not offered"
        if params.get("realm") != self.realm:
            return "another realm"
        if params.get("opaque") != self.opaque:
            return "opaque not returned"
        if (qop or None) not in (self._qops or (None,)):
            return "qop not offered"
        if qop and (not _NC.fullmatch(params.get("nc", "")) or not params.get("cnonce")):
            return "nc or cnonce missing"
        return ""

    def _use_nonce(self, known: _Nonce, nonce: str, count: int | None, username: str) -> DigestResult:
        """Check the age and the use of the nonce, count this use, and return the result."""
        if known.generation != self._generation:
            return DigestResult(401, stale=True, reason="nonce rotated", nonce=nonce, nc=count)
        if elapsed(self._clock) - known.issued >= self.nonce_lifetime:
            return DigestResult(401, stale=True, reason="nonce expired", nonce=nonce, nc=count)
        if self.nonce_uses is not None and known.uses >= self.nonce_uses:
            return DigestResult(401, stale=True, reason="nonce used up", nonce=nonce, nc=count)
        if count is None:
            known.uses += 1
        elif count == 0 or known.has_seen(count) or (self.strict_nc and count <= known.highest()):
            # As in Apache's mod_auth_digest, a repeated count is a replay, not a stale nonce.
            return DigestResult(401, reason="nc replayed", nonce=nonce, nc=count)
        else:
            known.add(count)
        return DigestResult(200, username=username, nonce=nonce, nc=count)
