"""A Redis server of our own, on a free loopback port, asking for a password; and a cable to it that can be cut."""

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
START = 20.0  # seconds for the server to start: only a broken one takes more than a moment


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def url_of(port: int, password: str = PASSWORD) -> str:
    return f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"


@attrs.define
class RedisServer:
    binary: str
    folder: str
    port: int = attrs.field(factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return url_of(self.port)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD, decode_responses=True)

    def start(self, *more: str) -> None:
        """Start with nothing remembered; returns when it answers."""
        options = f"--bind 127.0.0.1 --port {self.port} --appendonly no --repl-diskless-sync-delay 0".split()
        options += ["--save", "", "--requirepass", PASSWORD, "--masterauth", PASSWORD, *more]
        # The address stays the same over a restart, so its port may be taken by then: tried until it is free again.
        deadline = time.monotonic() + START
        while True:
            if self.process is None or self.process.poll() is not None:
                self.process = subprocess.Popen(
                    [
                        self.binary,
                        *options,
                        "--save",
                        "",
                        "--appendonly",
                        "no",
                        "--repl-diskless-sync-delay",
                        "0",
                        *more,
                    ],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            with self.client() as client, suppress(redis.ConnectionError):
                client.ping()
                return
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.02)

    def stop(self) -> None:
        """As the end of the machine would: nothing is said to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START)


@contextmanager
def running(*more: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(find("redis-server", "valkey-server"), folder)
        try:
            server.start(*more)
            yield server
        finally:
            server.stop()


class Cable:
    """Connects a port of its own with another one; can be cut, joined again, and led elsewhere."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._up = True
        self._ends: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return url_of(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._up = False
        for end in self._ends:
            end.transport.abort()

    def join(self, port: int | None = None) -> None:
        self.target = port or self.target
        self._up = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await close_listener(self._server)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._drop, writer)
            if not self._up:
                return
            there, other = await asyncio.open_connection("127.0.0.1", self.target)
            stack.push_async_callback(self._drop, other)
            self._ends |= {writer, other}
            copies = [
                asyncio.ensure_future(self._copy(reader, other)),
                asyncio.ensure_future(self._copy(there, writer)),
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

    async def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._ends.discard(writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
