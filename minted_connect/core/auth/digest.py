"""Digest authentication (RFC 7616), the client side. No I/O.

A `DigestAuth` belongs to one server. Each call uses an `AuthFlow`, which returns the `Authorization` value and decides
after a 401 whether to send the request again:

    async with auth.auth_flow() as flow:
        while True:
            response = await send(authorization=flow.header(method, target, body))
            if response.status != 401:
                flow.on_success(response.headers.getall("Authentication-Info", ()))
                break
            if not flow.on_challenge(response.headers.getall("WWW-Authenticate", ())):
                raise AuthenticationFailed

Rules for sending again:
- Once in response to the challenge of an unsigned request, and once after `stale=true`.
- Once after a 401 without `stale` to a nonce that other calls use too, with the nonce of that 401: the server may have
  restarted and lost the nonce.
- Not after a 401 without `stale` to the nonce of a challenge of this call: the credentials are wrong. Until the next
  success, a signed request is sent again only after `stale=true`.
- A call signs again with the nonce of its own challenge and shares this nonce after use, so that calls that renew the
  nonce at the same time do not use up each other's nonces.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Final, NoReturn, Self
from urllib.parse import quote

import attrs

from minted_connect.core.auth.challenge import (
    HASHES,
    Challenge,
    ChallengeRefused,
    Policy,
    Terms,
    choose_challenge,
    describe_unusable,
    parse_challenges,
    parse_nextnonce,
)

__all__ = ["AuthFlow", "DigestAuth", "Signer", "is_valid_target"]

_MAX_WAITS: Final = 2
"""Handshakes of other calls that a call waits for before it sends its request unsigned: if the server does not respond,
the timeouts of all calls must not add up."""

_escape: Final = partial(re.compile(r'(["\\])').sub, r"\\\1")
is_valid_target: Final = re.compile(r"[!#-\[\]-~]+").fullmatch
"""Whether path and query are percent-encoded ASCII."""


class _HoldsCredentials:
    """Base of objects with credentials: these stay out of reprs, and pickle and copy fail."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds credentials and cannot be pickled or copied")


class Signer(_HoldsCredentials):
    """Signs requests with one nonce.

    All requests with one nonce have the same cnonce; `nc` makes each digest unique. With "-sess", HA1 contains the
    cnonce, and servers differ in whether they use the first or the current one.
    """

    __slots__ = ("_after", "_before", "_count", "_hash", "_prefix", "challenge", "terms")

    def __init__(self, challenge: Challenge, terms: Terms, user: str, ha1: str) -> None:
        self.challenge: Challenge = challenge
        self.terms: Terms = terms
        self._hash = HASHES[terms.hash_name]
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

        Args:
            method: HTTP method.
            target: Path and query, percent-encoded as they are sent.
            body: The body, which "auth-int" signs too.

        Raises:
            ValueError: if `target` is not percent-encoded ASCII.
        """
        if not is_valid_target(target):
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


class _AuthState(_HoldsCredentials):
    """State shared by all flows: the credentials, the nonce in use, and the pinned terms."""

    __slots__ = ("_ha1", "_password", "_username", "is_accepted", "leader", "pinned", "policy", "rejected", "signer")

    def __init__(self, username: str, password: str | Callable[[], str], policy: Policy, pinned: Terms | None) -> None:
        self._username = username
        self._password = password
        self._ha1: tuple[tuple[str, str, bool], str] | None = None  # of one realm, algorithm and charset
        self.policy: Final = policy
        self.signer: Signer | None = None
        self.leader: asyncio.Event | None = None  # set when the flow that gets the first challenge has one, or ends
        self.is_accepted: bool = False  # whether the server has ever accepted the credentials
        self.rejected: bool = False  # whether the server rejected the credentials, and has not accepted them since
        self.pinned: Terms | None = pinned

    def sign_with(self, challenge: Challenge, terms: Terms) -> Signer:
        def text(value: str) -> str:
            return unicodedata.normalize("NFC", value) if utf8 else value

        utf8 = (challenge.charset or "").upper() == "UTF-8"
        make, name = HASHES[terms.hash_name], text(self._username)
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
        if self.pinned is None or (self.pinned.realm == terms.realm and terms.is_at_least(self.pinned)):
            self.pinned = terms


class DigestAuth(_HoldsCredentials):
    """The credentials for one server, and the nonce that its calls share.

    User name and password are hashed as UTF-8, normalised to NFC if the server sends `charset=UTF-8`. HA1 is cached, so
    the password is read only for the first challenge and when realm, algorithm or charset change.

    Args:
        username: Sent as UTF-8; as `username*` if it is not ASCII and the server sends `charset=UTF-8`; hashed if the
            server sends `userhash=true`.
        password: The password, or a function that returns it.
        policy: "modern" rejects MD5 and challenges without qop; "any" accepts the strongest challenge.
        pinned: The terms that requests with the credentials before these have pinned.

    Raises:
        ValueError: if the user name has unprintable characters.
    """

    __slots__ = ("_state",)

    def __init__(
        self,
        username: str,
        password: str | Callable[[], str],
        *,
        policy: Policy = "any",
        pinned: Terms | None = None,
    ) -> None:
        if not username.isprintable():
            raise ValueError("the user name must be printable")
        self._state = _AuthState(username, password, policy, pinned)

    @property
    def pinned(self) -> Terms | None:
        """The terms that successful requests have pinned; None before the first."""
        return self._state.pinned

    def auth_flow(self) -> AuthFlow:
        """Return the flow of one call, an async context manager."""
        return AuthFlow(self._state)


class AuthFlow(_HoldsCredentials):
    """The authentication of one call; made by `DigestAuth.auth_flow`.

    Entering waits while another call gets the first challenge, so that N calls at the start make N + 1 requests. The
    wait can be cancelled. If that call ends without a challenge, exactly one waiting call takes its place.
    """

    __slots__ = ("_has_renewed", "_is_own", "_leads", "_signer", "_state", "_superseded")

    def __init__(self, state: _AuthState) -> None:
        self._state = state
        self._leads: asyncio.Event | None = None
        self._signer: Signer | None = None
        self._is_own = False  # whether the signer belongs to a challenge of this call
        self._has_renewed = False
        self._superseded: Signer | None = None  # the shared signer that this flow may replace

    async def __aenter__(self) -> Self:
        state = self._state
        for _ in range(_MAX_WAITS):
            if state.signer or not state.leader:
                break
            await state.leader.wait()
        if not state.signer and not state.leader:
            self._leads = state.leader = asyncio.Event()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._is_own:
            self._share_signer()
        if self._leads:
            self._release_lead()

    def header(self, method: str, target: str, body: bytes = b"") -> str | None:
        """Return the `Authorization` value, or None before the first challenge.

        Call it right before each sending: every value is valid for one request.
        """
        if self._signer is None:
            self._signer = self._state.signer
        return self._signer.header(method, target, body) if self._signer else None

    def on_challenge(self, values: Sequence[str]) -> bool:
        """Handle a 401, given all its `WWW-Authenticate` values; return whether to send the request again.

        Raises:
            ChallengeRefused: if none of the challenges is acceptable.
        """
        if not values:  # a 401 of the application, without a challenge
            return False
        state, used = self._state, self._signer
        challenges = parse_challenges(values)
        if not challenges:
            raise ChallengeRefused(describe_unusable(values))
        challenge, terms = choose_challenge(challenges, state.policy, state.pinned)
        if state.signer is used:
            self._superseded = used
        if used is None:
            may_repeat = True
        elif challenge.stale:
            may_repeat, self._has_renewed = not self._has_renewed, True
        else:
            # The nonce has worked before and is shared, so it may be valid no longer.
            is_spent = used is state.signer and state.is_accepted
            may_repeat = (is_spent or not self._is_own) and not state.rejected
            state.rejected = not may_repeat
        self._signer, self._is_own = state.sign_with(challenge, terms), True
        if state.signer is None:
            self._share_signer()
        return may_repeat

    @property
    def is_pinned(self) -> bool:
        """Whether a request has succeeded with Digest, so that challenges of another realm are refused."""
        return self._state.pinned is not None

    def on_success(self, authentication_info: Sequence[str] = ()) -> None:
        """Record that the request was authenticated: any response except 401, 429 and 5xx.

        Args:
            authentication_info: All values of that header. `nextnonce` is used (RFC 7616 section 3.5), except for
                "-sess", whose HA1 depends on the first nonce. `rspauth` is not verified.
        """
        self._release_lead()
        state, signer = self._state, self._signer
        if signer is None:
            return
        state.rejected, state.is_accepted = False, True
        if signer.terms is not state.pinned:
            state.pin(signer.terms)
        self._share_signer()
        if authentication_info and state.signer is signer and not signer.challenge.is_session:
            nonce = parse_nextnonce(authentication_info)
            if nonce:
                state.signer = state.sign_with(attrs.evolve(signer.challenge, nonce=nonce), signer.terms)

    def _share_signer(self) -> None:
        state = self._state
        if self._is_own and state.signer is self._superseded:
            state.signer = self._signer
            if state.leader:  # wake the waiting calls, whichever flow got the challenge
                state.leader.set()

    def _release_lead(self) -> None:
        if self._leads:
            self._state.leader = None
            self._leads.set()
            self._leads = None
