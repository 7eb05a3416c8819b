"""Commands to the Redis server of a fleet. Failures raise `FleetError`, without quoting commands or the password."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio
import attrs

from minted_connect.core.cancellation import shielded
from minted_connect.errors import FleetError
from minted_connect.feed.fleet import scripts
from minted_connect.feed.fleet.redis_url import redact_url
from minted_connect.secret import Secret

__all__ = ["RedisConnection", "is_proved_by_write", "refused_command"]

_T = TypeVar("_T")

_CLOSE_TIMEOUT: Final = 3.0
"""Maximum seconds that disconnecting takes, however long the lease is."""

_WRITE_CODES: Final = ("READONLY", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN")
"""Errors with which a server rejects every write."""

_CODE: Final = re.compile(rf"\b({'|'.join(_WRITE_CODES)}|IDTOOHIGH|WRONGTYPE)\b")
_COMMAND: Final = re.compile(r"the '([a-z|_-]{1,40})' command")


@attrs.define(eq=False)
class _Client:
    redis: Any  # the annotations of redis-py are too loose to help
    scripts: dict[str, Any]
    in_flight: int = 0
    """Number of commands that wait for their response."""


class RedisConnection:
    """Executes commands on a Redis server.

    After an error response, later commands use new connections, so that the address is resolved again: behind it
    another server may have become the primary.

    Args:
        url: of the Redis server, as `redact_url` accepts it.
        scripts: the Lua scripts for `run_script`.
        timeout: seconds for one command.
    """

    def __init__(self, url: Secret, scripts: Iterable[str], *, timeout: float) -> None:
        self.address: Final = redact_url(url)
        self._url = url
        self._scripts = tuple(scripts)
        self._timeout = timeout
        self._client: _Client | None = None

    def open(self) -> None:
        """Make the connection usable; the first command connects."""
        self._client = self._make_client()

    def _make_client(self) -> _Client:
        from redis.asyncio import Redis  # noqa: PLC0415 - an extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        # redis-py must not retry: a round whose response was lost would be published twice.
        redis_class: Any = Redis
        redis = redis_class.from_url(
            self._url.reveal(),
            protocol=2,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
        )
        return _Client(redis, {source: redis.register_script(source) for source in self._scripts})

    async def aclose(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await shielded(self._disconnect(client))

    async def _disconnect(self, client: _Client) -> None:
        from redis.exceptions import RedisError  # noqa: PLC0415

        with anyio.move_on_after(min(self._timeout, _CLOSE_TIMEOUT)), suppress(RedisError, OSError):
            await client.redis.aclose()

    async def run_script(self, source: str, keys: list[str], *arguments: str | bytes) -> Any:
        """Run a script of this connection.

        Raises:
            FleetError: if Redis cannot be used.
        """
        return await self._execute(lambda client: client.scripts[source](keys=keys, args=arguments))

    async def execute(self, command: Callable[[Any], Awaitable[_T]]) -> _T:
        """Call `command` with a client of redis-py.

        Raises:
            FleetError: if Redis cannot be used.
        """
        return await self._execute(lambda client: command(client.redis))

    async def _execute(self, command: Callable[[_Client], Awaitable[_T]]) -> _T:
        from redis.exceptions import RedisError, ResponseError  # noqa: PLC0415

        client = self._client
        if client is None:
            raise FleetError(f"Redis at {self.address} cannot be used: the connection is closed")
        client.in_flight += 1
        try:
            # Limits the whole command: the timeout of redis-py starts again with each piece that it receives.
            async with asyncio.timeout(self._timeout):
                return await command(client)
        except TimeoutError as error:
            raise FleetError(f"Redis at {self.address} did not respond within {self._timeout:.3g} s") from error
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and client is self._client:
                # Other commands of the old client continue: redis-py fails if a connection in use is disconnected.
                self._client = self._make_client()
            # Not `str(error)`, which may quote the command.
            raise FleetError(f"Redis at {self.address} cannot be used: {_describe_error(error)}") from error
        finally:
            client.in_flight -= 1
            if client is not self._client and not client.in_flight:
                await shielded(self._disconnect(client))


def is_proved_by_write(error: FleetError) -> bool:
    """Return whether another write that succeeds later proves that the cause of this error is gone."""
    from redis.exceptions import ResponseError  # noqa: PLC0415

    return not isinstance(error.__cause__, ResponseError) or _find_code(error.__cause__) in _WRITE_CODES


def refused_command(error: FleetError) -> str | None:
    """Return the command that the ACL of the server refused; "" if it refused a key, None for another error."""
    cause = error.__cause__
    if _find_code(cause) != "NOPERM":
        return None
    found = _COMMAND.search(str(cause))
    return found[1] if found else ""


def _find_code(error: BaseException | None) -> str | None:
    """Return the code of an error response. Redis 6 puts the code of an error in a script into the text."""
    from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError  # noqa: PLC0415

    if not isinstance(error, ResponseError):
        return None
    # redis-py removes the code of the errors that have a class.
    for class_, code in ((ReadOnlyError, "READONLY"), (OutOfMemoryError, "OOM"), (NoPermissionError, "NOPERM")):
        if isinstance(error, class_):
            return code
    text = str(error)
    if any(refusal in text for refusal in scripts.REFUSALS):
        return "NOPERM"
    found = _CODE.search(text)
    return found[1] if found else None


def _describe_error(error: Exception) -> str:
    """Describe an error without the parts of its message that may quote the command."""
    from redis.exceptions import ConnectionError as RedisConnectionError  # noqa: PLC0415
    from redis.exceptions import ResponseError  # noqa: PLC0415

    if isinstance(error, ResponseError):
        first = str(error).partition(" ")[0]
        code = _find_code(error) or (first if first.isupper() else type(error).__name__)
        command = _COMMAND.search(str(error)) if code == "NOPERM" else None
        return f"{code} (the command {command[1]})" if command else code
    cause = error.__cause__ or error.__context__
    if isinstance(error, RedisConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return f"{type(error).__name__}: {cause.strerror}"
    return type(error).__name__
