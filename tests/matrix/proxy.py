"""A proxy between a client and a sandbox that injects faults into requests and responses, down to the byte.

The proxy reads the head of each request and hands the request to a handler, which can read its body, forward it to the
sandbox over a fresh connection, and send any bytes to the client. Only forwarded requests reach the server, so the
sandbox shows which requests were executed. Digest authentication works through the proxy, because it covers path and
query, not the host.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import attrs

from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.raw_server import Connection, RawServer, Script, close_listener

BULK: Final = "x" * 12_000_000
"""Larger than the socket buffers, so that writing it can be interrupted; forwarded as a short body."""


@attrs.frozen
class ProxiedResponse:
    """A parsed response of the server, which can be changed."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def parse(cls, head: bytes, body: bytes) -> Self:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = (line.partition(":") for line in lines)
        return cls(int(first.split()[1]), tuple((name, value.strip()) for name, _, value in headers), body)

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Reason", *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]

    def without(self, *names: str) -> Self:
        return attrs.evolve(self, headers=tuple(pair for pair in self.headers if pair[0].lower() not in names))

    def with_headers(self, *headers: tuple[str, str]) -> Self:
        return attrs.evolve(self, headers=(*self.headers, *headers))

    def with_body(self, body: bytes) -> Self:
        """Return the response with another body and its Content-Length."""
        changed = self.without("content-length").with_headers(("Content-Length", str(len(body))))
        return attrs.evolve(changed, body=body)

    def with_data(self, change: Callable[[Any], Any]) -> Self:
        envelope = json.loads(self.body)
        envelope["data"] = change(envelope["data"])
        return self.with_body(json.dumps(envelope).encode())


@attrs.define(eq=False)
class ProxiedRequest:
    """One request whose head was read and that is not forwarded yet."""

    proxy: FaultProxy
    connection: Connection
    head: bytes
    earlier_requests: int
    """Number of earlier requests over the same connection."""
    body: bytes | None = None

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def path(self) -> str:
        return urlsplit(self.line.split(" ")[1]).path

    async def read(self) -> bytes:
        """Read the body of the request."""
        if self.body is None:
            length = 0
            for line in self.head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.body = await self.connection.reader.readexactly(length)
        return self.body

    async def forward(self, *, without: str = "") -> ProxiedResponse:
        """Forward the request and return the server's response; `without` removes a header line."""
        body = await self.read()
        if len(body) > len(BULK):
            body = body.replace(BULK.encode(), b"x@mail.example")
        lines = self.head.split(b"\r\n")
        if without:
            lines = [line for line in lines if not line.lower().startswith(without.encode())]
        if body is not self.body:
            length = f"Content-Length: {len(body)}".encode()
            lines = [length if line.lower().startswith(b"content-length") else line for line in lines]
        reader, writer = await asyncio.open_connection(*self.proxy.target)
        try:
            writer.write(b"\r\n".join(lines) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            response = ProxiedResponse.parse(head, b"")
            length = dict((name.lower(), value) for name, value in response.headers).get("content-length", "0")
            return attrs.evolve(response, body=await reader.readexactly(int(length)))
        finally:
            writer.close()

    def send(self, raw: bytes) -> None:
        self.connection.send(raw)

    async def close(self, *, reset: bool = False) -> None:
        """Close the client's connection, with a TCP reset if `reset`."""
        writer = self.connection.writer
        await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        writer.close()

    async def wait_for_disconnect(self) -> None:
        """Send nothing until the client has closed the connection."""
        try:
            while await self.connection.reader.read(65536):
                pass
        except ConnectionError:
            pass


Handler = Callable[[ProxiedRequest], Awaitable[None]]


async def forward_request(proxied: ProxiedRequest) -> None:
    """Forward the request and send its response."""
    response = await proxied.forward()
    if proxied.proxy.keep_alive:
        proxied.send(response.raw)
    else:
        proxied.send(response.with_headers(("Connection", "close")).raw)
        await proxied.close()


@attrs.define(eq=False)
class _Rule:
    method: str
    path: str
    handlers: list[Handler]
    """One handler for each further request; the last is repeated if `endless`."""
    endless: bool

    def next(self, proxied: ProxiedRequest) -> Handler | None:
        if not self.handlers or proxied.method != self.method or not fnmatchcase(proxied.path, self.path):
            return None
        return self.handlers[0] if self.endless and len(self.handlers) == 1 else self.handlers.pop(0)


def _bound_socket(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only if the protocol of the socket is given as TCP.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class FaultProxy(RawServer):
    """`async with FaultProxy(sandbox, clock) as proxy`: forwards requests, or injects faults into them."""

    def __init__(self, sandbox: Sandbox, clock: ManualClock, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._serve_requests, tls)
        self.tls = tls
        parts = urlsplit(sandbox.url)
        assert parts.hostname is not None
        self.target = (parts.hostname, parts.port)
        self.sandbox, self.clock = sandbox, clock
        # Bound but never listening: reserves the port while the proxy does not listen.
        self._reserved = _bound_socket(0)
        self._backlog: list[socket.socket] = []
        self.keep_alive = True
        """Whether the client may reuse a connection."""
        self.proxied_requests: list[ProxiedRequest] = []
        self.failures: list[Exception] = []
        """Exceptions raised by the handlers."""
        self.failed_handshakes: list[str] = []
        """Reasons of failed handshakes of `handshake_manually`."""
        self.received = b""
        """Bytes received over the connections of `handshake_manually`."""
        self._rules: list[_Rule] = []
        self._dead: set[Connection] = set()

    def inject(self, method: str, path: str, handlers: Iterable[Handler], *, endless: bool = False) -> None:
        """Handle matching requests with these handlers, one for each request; `endless` repeats the last one."""
        self._rules.append(_Rule(method, path, list(handlers), endless))

    def clear_faults(self) -> None:
        """Forward all requests from now on."""
        self._rules.clear()

    def kill_connections(self) -> int:
        """Reset each connection that is open now at its next request; return the number of these connections."""
        self._dead = {connection for connection in self.connections if not connection.writer.is_closing()}
        return len(self._dead)

    def count(self, method: str, path: str) -> int:
        """Return the number of requests with this method and path that were received."""
        return len(self.of(method, path))

    def of(self, method: str, path: str) -> list[ProxiedRequest]:
        return [
            request for request in self.proxied_requests if request.method == method and fnmatchcase(request.path, path)
        ]

    # Faults of the listening socket

    async def _listen(self) -> asyncio.Server:
        self._script = self._serve_requests
        return await asyncio.start_server(self._serve, sock=self._new_socket(), ssl=self._ssl)

    async def _serve_with(self, script: Script) -> None:
        """Hand new connections to this function, without the TLS of asyncio."""
        await close_listener(self._server)
        self._script = script
        self._server = await asyncio.start_server(self._serve, sock=self._new_socket())

    def _new_socket(self) -> socket.socket:
        return _bound_socket(self._reserved.getsockname()[1])

    async def stop_listening(self) -> None:
        """Stop listening: the port refuses new connections, and existing connections stay open."""
        await close_listener(self._server)

    async def fill_backlog(self) -> None:
        """Fill the backlog, so that the kernel completes no handshake, as behind a firewall that drops packets."""
        await close_listener(self._server)
        listener = self._new_socket()
        listener.listen(0)
        self._backlog.append(listener)
        for _ in range(4):
            client_socket = socket.socket()
            client_socket.setblocking(False)
            client_socket.connect_ex(listener.getsockname())
            self._backlog.append(client_socket)

    async def stall_handshakes(self) -> asyncio.Event:
        """Accept connections from now on, but never respond to their TLS handshakes; return an event for the first."""
        received = asyncio.Event()

        async def handle(connection: Connection) -> None:
            while await connection.reader.read(65536):
                received.set()

        await self._serve_with(handle)
        return received

    async def handshake_manually(self, context: ssl.SSLContext, early: bytes = b"") -> None:
        """Do the TLS handshakes by hand from now on, and send `early` with the last message of the handshake.

        asyncio closes the connection after a failed handshake without sending the TLS alert.
        """

        async def handle(connection: Connection) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls_object = context.wrap_bio(incoming, outgoing, server_side=True)
            is_done = False
            try:
                while True:
                    try:
                        if not is_done:
                            tls_object.do_handshake()
                            is_done = True
                            tls_object.write(early)
                        if not (received := tls_object.read()):
                            return  # closed by the client
                        self.received += received
                    except ssl.SSLWantReadError:
                        connection.send(outgoing.read())
                        incoming.write(await connection.reader.read(65536) or await connection.reader.readexactly(1))
            except ssl.SSLError as error:
                self.failed_handshakes.append(error.reason)
                connection.send(outgoing.read())

        await self._serve_with(handle)

    async def listen_again(self) -> None:
        """Listen again."""
        while self._backlog:
            self._backlog.pop().close()
        await close_listener(self._server)
        self._server = await self._listen()

    async def _serve_requests(self, connection: Connection) -> None:
        count = 0
        while not connection.writer.is_closing():
            head = await connection.reader.readuntil(b"\r\n\r\n")
            proxied = ProxiedRequest(self, connection, head, count)
            count += 1
            self.proxied_requests.append(proxied)
            if connection in self._dead:
                await proxied.close(reset=True)
                return
            handlers = (rule.next(proxied) for rule in self._rules)
            handler = next((handler for handler in handlers if handler is not None), forward_request)
            try:
                await handler(proxied)
                await connection.writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                return  # the client has disconnected
            except Exception as error:
                self.failures.append(error)
                return
            if proxied.body is None:
                return  # the next bytes are the unread body, not the head of a request

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for each_socket in (self._reserved, *self._backlog):
            each_socket.close()
        if self.failures:
            raise self.failures[0]
