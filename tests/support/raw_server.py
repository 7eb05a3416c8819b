"""A scripted server on plain sockets, for responses that no HTTP library sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from ssl import SSLError
from types import TracebackType
from typing import Any, Self


class Connection:
    """One accepted connection, seen from the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """Read one whole request: its first line, headers in lower case, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((first, headers, body))
        return self.requests[-1]

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    def respond(self, body: bytes, status: int = 200, headers: str = "", *, length: int | None = None) -> None:
        """Send a response; `length` replaces the actual length of the body in its header."""
        self.send(
            f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n".encode()
            + body
        )

    def envelope(self, data: Any, status: int = 200, headers: str = "", **more: Any) -> None:
        """Send the vendor's envelope around `data`."""
        whole = {"data": data, "success": status < 400, "code": 0 if status < 400 else status, "message": "", **more}
        self.respond(json.dumps(whole).encode(), status, headers)

    async def reset(self) -> None:
        """Send the written data, then abort the connection."""
        await self.writer.drain()
        self.writer.transport.abort()


def ignore_handshake_errors() -> None:
    """Ignore errors of handshakes in the event loop, because tests refuse certificates on purpose."""
    loop = asyncio.get_running_loop()
    default = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), ConnectionResetError | SSLError):
            return
        (default or asyncio.AbstractEventLoop.default_exception_handler)(loop, context)

    loop.set_exception_handler(handle)


async def close_listener(server: asyncio.Server) -> None:
    """Close a server without losing a connection between accept and its transport (a defect of CPython 3.11)."""
    for sock in server.sockets:
        asyncio.get_running_loop().remove_reader(sock)
    for _ in range(3):
        await asyncio.sleep(0)
    server.close()


Script = Callable[[Connection], Awaitable[None]]


class RawServer:
    """Run a script for every connection, until the script returns: `async with RawServer(script) as server`."""

    def __init__(self, script: Script, ssl: Any = None) -> None:
        self._script = script
        self._ssl = ssl
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[Connection] = []

    @property
    def url(self) -> str:
        scheme = "https" if self._ssl else "http"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def requests(self) -> list[tuple[str, dict[str, str], bytes]]:
        return [request for connection in self.connections for request in connection.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(reader, writer, len(self.connections))
        self.connections.append(connection)
        try:
            await self._script(connection)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl)

    async def __aenter__(self) -> Self:
        if self._ssl:
            ignore_handshake_errors()
        self._server = await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_listener(self._server)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self.connections:
            connection.writer.transport.abort()
        await self._server.wait_closed()
