"""Digest challenges (RFC 7616): parsing, and the choice of the strongest acceptable one. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal, Protocol

import attrs

__all__ = [
    "HASHES",
    "Challenge",
    "ChallengeRefused",
    "Hash",
    "Policy",
    "Terms",
    "choose_challenge",
    "describe_unusable",
    "find_hashes",
    "parse_challenges",
    "parse_nextnonce",
]

Policy = Literal["any", "modern"]


class Hash(Protocol):
    """A hash object of `hashlib`."""

    def hexdigest(self) -> str:
        """Return the digest in hexadecimal."""
        ...


def find_hashes() -> Iterator[tuple[str, Callable[[bytes], Hash]]]:
    """Yield the hash functions of this OpenSSL, which may lack SHA-512/256 and refuses MD5 in FIPS mode."""
    for label, name in (("MD5", "md5"), ("SHA-256", "sha256"), ("SHA-512-256", "sha512_256")):
        # The constructors are faster than `hashlib.new`, but SHA-512/256 has none.
        make: Callable[[bytes], Hash] = getattr(hashlib, name, None) or partial(hashlib.new, name)
        try:
            make(b"")
        except ValueError:
            continue
        yield label, make


HASHES: Final = dict(find_hashes())
"""Available hash functions by their name in challenges, in upper case."""

_STRENGTH: Final = {"MD5": 0, "SHA-256": 1, "SHA-512-256": 2}
_QOP_STRENGTH: Final = {"": 0, "auth": 1, "auth-int": 2}
_QOP_PREFERENCE: Final = ("", "auth-int", "auth")  # auth-int hashes every body, and TLS already protects it

_ECHOED: Final = ("realm", "nonce", "opaque")
"""Parameters that requests send back as they came."""
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


class ChallengeRefused(ValueError):
    """No challenge of the response is acceptable. `reason` holds no secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Challenge:
    """One Digest challenge of a `WWW-Authenticate` field (RFC 7616 section 3.3)."""

    realm: str
    nonce: str
    opaque: str | None = None
    algorithm: str | None = None
    """In the server's spelling, which requests must echo; None if missing, which means MD5."""
    qop: tuple[str, ...] = ()
    """In lower case and in the server's order; empty in the legacy form of RFC 2069."""
    stale: bool = False
    userhash: bool = False
    charset: str | None = None
    domain: tuple[str, ...] = ()

    @property
    def hash_name(self) -> str:
        """Name of the hash function: `algorithm` in upper case, without "-sess"."""
        return (self.algorithm or "MD5").upper().removesuffix("-SESS")

    @property
    def is_session(self) -> bool:
        """Whether the algorithm is a "-sess" variant."""
        return (self.algorithm or "").upper().endswith("-SESS")


@attrs.frozen
class Terms:
    """The realm and strength of an accepted challenge.

    The first success pins them: later challenges must be of the same realm and not weaker. A "-sess" algorithm is as
    strong as its base.
    """

    realm: str
    hash_name: str
    qop: str

    def is_at_least(self, other: Terms) -> bool:
        """Return whether these terms are at least as strong as `other`."""
        hash_name, qop = _STRENGTH[self.hash_name], _QOP_STRENGTH[self.qop]
        return hash_name >= _STRENGTH[other.hash_name] and qop >= _QOP_STRENGTH[other.qop]


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Parse the Digest challenges of all `WWW-Authenticate` values, in order (RFC 9110 section 11.6.1).

    Other schemes and invalid text are skipped. A repeated parameter keeps its first value.
    """
    return [challenge for params in _find_digest_params(values) if (challenge := _challenge(params))]


def describe_unusable(values: Sequence[str]) -> str:
    """Return why `WWW-Authenticate` values contain no usable Digest challenge, for an error."""
    for params in _find_digest_params(values):
        for name in _ECHOED:
            value = params.get(name, "")
            if not value.isprintable():
                is_utf8 = not any("\ud800" <= char <= "\udfff" for char in value)
                problem = "contains control characters" if is_utf8 else "is not UTF-8"
                return f"the {name} of the Digest challenge {problem}, and requests must send it back"
    return "no Digest authentication is on offer"


def _find_digest_params(values: Sequence[str]) -> list[dict[str, str]]:
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
    return found


def _value(piece: re.Match[str]) -> str:
    return piece["bare"] or _unescape(piece["quoted"] or "")


def _challenge(params: dict[str, str]) -> Challenge | None:
    # Requests echo these values, so they must be valid in a header: no control characters, and no bytes that are not
    # UTF-8, which aiohttp decodes to lone surrogates.
    if "realm" not in params or not all(params.get(name, "").isprintable() for name in _ECHOED):
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


def choose_challenge(challenges: list[Challenge], policy: Policy, pinned: Terms | None) -> tuple[Challenge, Terms]:
    """Return the strongest acceptable challenge and its terms; of equal ones the first, "-sess" algorithms last.

    Args:
        challenges: At least one challenge.
        policy: "modern" refuses MD5 and challenges without qop.
        pinned: The terms that were accepted before.

    Raises:
        ChallengeRefused: if no challenge is acceptable.
    """
    rules: tuple[tuple[Callable[[Challenge, Terms], bool], str], ...] = (
        (lambda challenge, _: bool(challenge.nonce), "the Digest challenge has no nonce"),
        (lambda _, terms: terms.hash_name in HASHES, "no Digest algorithm on offer is supported"),
        (lambda _, terms: terms.qop in _QOP_STRENGTH, "no quality of protection on offer is supported"),
        (
            lambda _, terms: policy == "any" or (terms.hash_name != "MD5" and terms.qop != ""),
            "only MD5 or a challenge without qop is on offer, which the policy 'modern' refuses",
        ),
        (lambda _, terms: not pinned or terms.realm == pinned.realm, "the challenge is of another realm than before"),
        (
            lambda _, terms: not pinned or terms.is_at_least(pinned),
            "the challenge is weaker than the one accepted before",
        ),
    )
    offers = [
        (challenge, Terms(challenge.realm, challenge.hash_name, qop))
        for challenge in challenges
        for qop in challenge.qop or ("",)
    ]
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


def parse_nextnonce(values: Sequence[str]) -> str:
    """Return the `nextnonce` of all `Authentication-Info` values (RFC 7616 section 3.5), or an empty string."""
    pieces = (piece for value in values for piece in _PIECE.finditer(value) if piece["name"])
    nonce = next((_value(piece) for piece in pieces if piece["name"].lower() == "nextnonce"), "")
    return nonce if nonce.isprintable() else ""
