"""Credentials that a function of the application returns: asked for at the first request, and after a refusal."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any, Final

from minted_connect.core.auth.challenge import Policy
from minted_connect.core.auth.digest import DigestAuth
from minted_connect.errors import ConfigurationError, MintedConnectError, NotSent
from minted_connect.secret import Credentials, CredentialsFunction, Secret

__all__ = ["Login"]

_logger = logging.getLogger("minted_connect")


class Login:
    """The credentials of a client whose password is a function. Concurrent calls share one call of the function.

    Args:
        username: The user name that the client was built with.
        function: Returns the password, or `Credentials`.
        policy: As for `DigestAuth`.
        may_rename: Whether the function may return another user name: the journal must then have an account name.
    """

    def __init__(self, username: str, function: CredentialsFunction, *, policy: Policy, may_rename: bool) -> None:
        self._username = username
        self._function: Final = function
        self._policy: Policy = policy
        self._may_rename = may_rename
        self._lock = asyncio.Lock()
        self._digest: DigestAuth | None = None
        self._credentials: Credentials | None = None
        self._is_refused = False  # whether the server has refused the credentials in use
        self._asked = 0  # number of finished calls of the function
        self._failure: tuple[type[MintedConnectError], str, BaseException | None] | None = None  # of the latest one

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """User name and password in use, which errors mask."""
        found = self._credentials
        return () if found is None else (Secret(found.username), found.password)

    async def open(self) -> tuple[DigestAuth, bool]:
        """Return the credentials for a request, and whether the function was asked for them.

        Raises:
            NotSent: if the function raises an error.
            ConfigurationError: if the function returns something else, or another user name than it may.
        """
        if self._digest is None or self._is_refused:
            await self._ask(self._digest)
            assert self._digest is not None
            return self._digest, True
        return self._digest, False

    async def renew(self, refused: DigestAuth) -> DigestAuth | None:
        """Return other credentials than those that the server has refused, None if the function has none.

        Raises:
            ConfigurationError: as `open`.
        """
        self.mark_refused(refused)
        if self._digest is refused:
            try:
                await self._ask(refused)
            except NotSent as error:
                _logger.warning("%s", error)
        return None if self._digest is refused else self._digest

    def mark_refused(self, digest: DigestAuth) -> None:
        """Ask the function before the next request, unless these credentials have been replaced."""
        if digest is self._digest:
            self._is_refused = True

    async def _ask(self, known: DigestAuth | None) -> None:
        """Replace `known`, unless another call has done so, or has failed to, since this call began to wait."""
        asked = self._asked
        async with self._lock:
            if self._asked != asked:
                if self._failure is not None:
                    # A new error for each call, because errors hold the request of their call.
                    kind, text, cause = self._failure
                    raise kind(text) from cause
                return
            if self._digest is not known:
                return
            self._failure = None
            try:
                self._use(await self._call())
            except MintedConnectError as error:
                self._failure = (type(error), str(error), error.__cause__)
                self._asked += 1
                raise
            self._asked += 1

    async def _call(self) -> Credentials:
        value: Any = None
        try:
            if inspect.iscoroutinefunction(self._function):
                value = await self._function()
            else:
                # It may wait for a server.
                value = await asyncio.to_thread(self._function)
                if inspect.isawaitable(value):
                    value = await value
        except Exception as error:
            name = type(error).__name__
            raise NotSent(f"password: the function that returns it raised {name}; nothing was sent") from error
        if isinstance(value, Credentials):
            return value
        if not isinstance(value, str | Secret):
            kind = type(value).__name__
            raise ConfigurationError(f"password: the function must return str, Secret or Credentials, not {kind}")
        return Credentials(self._username, value)

    def _use(self, credentials: Credentials) -> None:
        if credentials.username != self._username and not self._may_rename:
            raise ConfigurationError(
                "password: the function returned another user name, and the journal belongs to the first one: set "
                "Options.journal_account"
            )
        self._is_refused = False
        if credentials == self._credentials:
            return
        pinned = None if self._digest is None else self._digest.pinned
        self._digest = DigestAuth(credentials.username, credentials.password.reveal, policy=self._policy, pinned=pinned)
        self._credentials = credentials
