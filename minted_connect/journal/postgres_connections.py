"""Connections of the PostgreSQL journal: a new one for each operation, or from a pool.

The pool opens connections only for operations that wait for one, in their own time. psycopg_pool 3.3 connects in
background tasks: a rejected password reaches the caller as a timeout, after all its patience, and a task that is
cancelled while it connects swallows the cancellation, so that `asyncio.run` never returns if the pool was not closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import attrs

from minted_connect.clock import SYSTEM_CLOCK, TimerHandle, call_later, monotonic, timeout
from minted_connect.secret import Secret

if TYPE_CHECKING:
    from minted_connect.journal.postgres_transaction import Connection

__all__ = ["ConnectionPool", "NoFreeConnection", "shut_down"]

_MAX_IDLE: Final = 60.0
"""Seconds after which an idle connection is closed. Load balancers drop idle connections after a few minutes."""

_MAX_LIFETIME: Final = 600.0
"""Seconds after which a connection is no longer used: after a failover, the name may lead to another server."""

_TRUSTED_IDLE: Final = 1.0
"""Seconds within which an idle connection is reused without a response from the server."""

_CHECK_SHARE: Final = 0.2
"""Share of the patience that one check of an idle connection may take: the server may be gone without a trace."""

_IDLE: Final = 0
"""`psycopg.pq.TransactionStatus.IDLE`; psycopg is imported on demand."""

_inherited: Final[list[object]] = []
"""Pools of the parent process. Deleting their connections would warn about them, or end the parent's sessions."""


@cache
def _connection_class() -> type[Connection]:
    import psycopg  # noqa: PLC0415

    class JournalConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
        """A connection whose `repr` does not name the user: local variables of tracebacks may be shown."""

        def __repr__(self) -> str:
            return f"<{type(self).__name__} at 0x{id(self):x}>"

    return JournalConnection


class NoFreeConnection(Exception):
    """All connections of the pool were in use for as long as the operation could wait."""


@attrs.define(eq=False)
class _PooledConnection:
    """A connection with the times of its opening and its last use."""

    connection: Connection
    opened_at: float = attrs.field(factory=monotonic)
    used_at: float = attrs.field(factory=monotonic)

    def close(self) -> None:
        """Close the connection, as `AsyncConnection.close`, which awaits nothing."""
        self.connection.pgconn.finish()

    async def is_usable(self, patience: float) -> bool:
        """Return whether another operation may use the connection, and the server still serves it."""
        import psycopg  # noqa: PLC0415

        if monotonic() - self.opened_at > _MAX_LIFETIME:
            return False
        try:
            # Detects without waiting that the server has closed the connection. The first call reads the last message
            # of the server, the second one the end of the stream.
            self.connection.pgconn.consume_input()
            self.connection.pgconn.consume_input()
            if monotonic() - self.used_at > _TRUSTED_IDLE:
                timer = call_later(SYSTEM_CLOCK, patience, lambda: shut_down(self.connection))
                try:
                    await self.connection.execute("")
                finally:
                    timer.cancel()
        except psycopg.Error:
            return False
        return not self.connection.closed


@attrs.define(eq=False)
class _LoopPool:
    """The connections of one event loop in one process."""

    slots: asyncio.Semaphore
    pid: int = attrs.field(factory=os.getpid)
    idle: deque[_PooledConnection] = attrs.field(factory=deque[_PooledConnection])
    """Idle connections. The last one is used first, so that the others can expire."""
    timer: TimerHandle | None = None
    is_closed: bool = False

    async def take(self, patience: float) -> _PooledConnection | None:
        """Return an idle connection that may be used, or None.

        If one may not be used, close all: the others most likely ended with it, and to try each may take too long.

        Args:
            patience: Maximum of seconds to wait for the server.
        """
        if not self.idle:
            return None
        pooled, is_usable = self.idle.pop(), False
        try:
            is_usable = await pooled.is_usable(patience)
        finally:
            if not is_usable:
                pooled.close()
                self.close_idle()
        return pooled if is_usable else None

    def store(self, pooled: _PooledConnection) -> None:
        """Store a connection for the next operation, or close it if another transaction cannot use it."""
        if self.is_closed or pooled.connection.pgconn.transaction_status != _IDLE:
            pooled.close()
            return
        pooled.used_at = monotonic()
        self.idle.append(pooled)
        if self.timer is None:
            self.timer = call_later(SYSTEM_CLOCK, _MAX_IDLE, self.close_expired)

    def close_expired(self) -> None:
        """Close the connections that have been idle for too long."""
        self.timer = None
        if self.pid != os.getpid():
            return
        while self.idle and monotonic() - self.idle[0].used_at >= _MAX_IDLE:
            self.idle.popleft().close()
        if self.idle:
            seconds = _MAX_IDLE - (monotonic() - self.idle[0].used_at)
            self.timer = call_later(SYSTEM_CLOCK, seconds, self.close_expired)

    def close(self) -> None:
        """Close the idle connections; those in use are closed after their operation."""
        self.is_closed = True
        if self.timer is not None:
            self.timer.cancel()
        self.close_idle()

    def close_idle(self) -> None:
        """Close the idle connections."""
        while self.idle:
            self.idle.pop().close()


class ConnectionPool:
    """Opens connections, and keeps them for further operations on the same event loop in the same process.

    Args:
        url: The URL of the database.
        params: Further connection parameters.
        size: Maximum of open connections for each event loop; 0 = open one for each operation, without a maximum.
    """

    def __init__(self, url: Secret, params: dict[str, Any], size: int) -> None:
        self._url, self._params, self._size = url, params, size
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = WeakKeyDictionary()

    @asynccontextmanager
    async def connection(self, patience: float) -> AsyncGenerator[Connection]:
        """Yield a connection outside a transaction. Afterwards, keep it unless it is closed or inside a transaction.

        Args:
            patience: Maximum of seconds to wait for a free connection and for the server.

        Raises:
            NoFreeConnection: if all connections are in use.
            TimeoutError: if the server does not respond.
            psycopg.Error: if the connection fails.
        """
        if not self._size:
            connection = await self._connect(patience)
            try:
                yield connection
            finally:
                # The server rolls back what was not committed.
                await connection.close()
            return
        pool, deadline = self._pool_of_loop(), monotonic() + patience
        try:
            async with timeout(SYSTEM_CLOCK, patience):
                await pool.slots.acquire()
        except TimeoutError:
            raise NoFreeConnection from None
        try:
            pooled = await pool.take(patience * _CHECK_SHARE)
            if pooled is None:
                pooled = _PooledConnection(await self._connect(deadline - monotonic()))
            try:
                yield pooled.connection
            finally:
                pool.store(pooled)
        finally:
            pool.slots.release()

    def close(self) -> None:
        """Close the idle connections of the running event loop; those in use are closed after their operation."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is None:
            return
        if pool.pid == os.getpid():
            pool.close()
        else:
            _inherited.append(pool)

    def _pool_of_loop(self) -> _LoopPool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.pid != os.getpid():
            if self._pools and next(iter(self._pools.values())).pid != os.getpid():
                _inherited.extend(self._pools.values())
            pool = self._pools[loop] = _LoopPool(asyncio.Semaphore(self._size))
        return pool

    async def _connect(self, patience: float) -> Connection:
        async with timeout(SYSTEM_CLOCK, patience):
            return await _connection_class().connect(
                self._url.reveal(),
                autocommit=True,  # `BEGIN` is sent together with the settings of the transaction
                prepare_threshold=None,  # behind a connection pooler, each transaction may get another session
                client_encoding="utf8",
                fallback_application_name="minted_connect",
                **self._params,
            )


def shut_down(connection: Connection) -> None:
    """Shut down the socket, which ends every wait for the server.

    A cancelled psycopg waits until the server has stopped, which may not respond any more.
    """
    # `shutdown` ignores the address family given here. It fails if the socket is closed already.
    with suppress(Exception), socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
