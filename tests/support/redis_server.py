"""A Redis server for tests, on a free loopback port and with a password, and a TCP proxy that can be disconnected."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Self
from urllib.parse import quote

import attrs
import redis

from tests.support.programs import find
from tests.support.raw_server import close_listener

PASSWORD = "canary-p@ss/wörd"
START_TIMEOUT = 20.0  # seconds; usually it starts at once


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def url_of(port: int, password: str = PASSWORD) -> str:
    return f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"


@attrs.define
class RedisServer:
    binary: str
    directory: str
    port: int = attrs.field(factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return url_of(self.port)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD, decode_responses=True)

    def start(self, *more: str) -> None:
        """Start without data; return when the server responds."""
        options = f"--bind 127.0.0.1 --port {self.port} --appendonly no --repl-diskless-sync-delay 0".split()
        options += ["--save", "", "--requirepass", PASSWORD, "--masterauth", PASSWORD, *more]
        # After a restart another process may hold the port for a moment: start again until it is free.
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self.process is None or self.process.poll() is not None:
                self.process = subprocess.Popen(
                    [self.binary, *options], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                )
            with self.client() as client, suppress(redis.ConnectionError):
                client.ping()
                return
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill the server, without a shutdown, as a crash of its machine does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_TIMEOUT)


@contextmanager
def running(*more: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(find("redis-server", "valkey-server"), directory)
        try:
            server.start(*more)
            yield server
        finally:
            server.stop()


class TcpProxy:
    """Forwards the connections to its own port to a target port; can be disconnected, reconnected and redirected."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._is_connected = True
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return url_of(self._server.sockets[0].getsockname()[1])

    def disconnect(self) -> None:
        """Abort every connection, and close new ones at once."""
        self._is_connected = False
        for writer in self._writers:
            writer.transport.abort()

    def reconnect(self, port: int | None = None) -> None:
        """Forward new connections again, to `port` if it is given."""
        self._target = port or self._target
        self._is_connected = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disconnect()
        await close_listener(self._server)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._abort, writer)
            if not self._is_connected:
                return
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
            stack.push_async_callback(self._abort, target_writer)
            self._writers |= {writer, target_writer}
            copies = [
                asyncio.ensure_future(self._copy(reader, target_writer)),
                asyncio.ensure_future(self._copy(target_reader, writer)),
            ]
            try:
                await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for copy in copies:
                    copy.cancel()
                await asyncio.wait(copies)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def _abort(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
