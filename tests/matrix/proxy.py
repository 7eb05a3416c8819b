"""A proxy without scruples between a client and a sandbox: what happens to a request is scripted down to the byte.

It reads each request from the client, passes it on over a fresh connection of its own, gets the sandbox's answer, and
hands both to an act, which may do with them whatever sockets allow. The sandbox stays the oracle: only what the proxy
passed on has reached the server. Digest goes through unharmed, since it covers path and query, and no host.
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
from tests.support.raw_server import Connection, Script, WireServer, close_listener

BULK: Final = "x" * 12_000_000
"""More than any socket buffers, so that its writing can be interrupted; passed on as something short."""


@attrs.frozen
class Answer:
    """One answer of the server, taken apart so that it can be spoilt."""

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
        lines = [f"HTTP/1.1 {self.status} Whatever", *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]

    def without(self, *names: str) -> Self:
        return attrs.evolve(self, headers=tuple(pair for pair in self.headers if pair[0].lower() not in names))

    def having(self, *headers: tuple[str, str]) -> Self:
        return attrs.evolve(self, headers=(*self.headers, *headers))

    def with_body(self, body: bytes) -> Self:
        """Return it with another body, of which it tells the true length."""
        changed = self.without("content-length").having(("Content-Length", str(len(body))))
        return attrs.evolve(changed, body=body)

    def with_data(self, change: Callable[[Any], Any]) -> Self:
        envelope = json.loads(self.body)
        envelope["data"] = change(envelope["data"])
        return self.with_body(json.dumps(envelope).encode())


@attrs.define(eq=False)
class ProxiedRequest:
    """One request on its way: its head has been read, and nothing has been passed on yet."""

    proxy: Chaos
    connection: Connection
    head: bytes
    earlier: int
    """Requests that came over the same connection before."""
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

    async def forward(self, *, without: str = "") -> Answer:
        """Let the server do what is asked, and return its answer; `without` takes a header line out."""
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
            answer = Answer.parse(head, b"")
            length = dict((name.lower(), value) for name, value in answer.headers).get("content-length", "0")
            return attrs.evolve(answer, body=await reader.readexactly(int(length)))
        finally:
            writer.close()

    def send(self, raw: bytes) -> None:
        self.connection.send(raw)

    async def close(self, *, reset: bool = False) -> None:
        """Let go of the client: politely, or with a TCP reset."""
        writer = self.connection.writer
        await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        writer.close()

    async def gone(self) -> None:
        """Say nothing, until the client has hung up."""
        try:
            while await self.connection.reader.read(65536):
                pass
        except ConnectionError:
            pass


Act = Callable[[ProxiedRequest], Awaitable[None]]


async def pass_on(proxied: ProxiedRequest) -> None:
    """Do nothing wrong."""
    answer = await proxied.forward()
    if proxied.proxy.keep_alive:
        proxied.send(answer.raw)
    else:
        proxied.send(answer.having(("Connection", "close")).raw)
        await proxied.close()


@attrs.define(eq=False)
class _Plan:
    method: str
    path: str
    acts: list[Act]
    """One for each request to come; the last is repeated if `endless`."""
    endless: bool

    def next(self, proxied: ProxiedRequest) -> Act | None:
        if not self.acts or proxied.method != self.method or not fnmatchcase(proxied.path, self.path):
            return None
        return self.acts[0] if self.endless and len(self.acts) == 1 else self.acts.pop(0)


def _bound(port: int) -> socket.socket:
    # asyncio lets small segments go at once only where the socket is said to be of TCP.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class Chaos(WireServer):
    """`async with Chaos(sandbox, clock) as proxy`: forwards requests, or injects faults into them."""

    def __init__(self, sandbox: Sandbox, clock: ManualClock, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._pass, tls)
        self.tls = tls
        parts = urlsplit(sandbox.url)
        assert parts.hostname is not None
        self.target = (parts.hostname, parts.port)
        self.sandbox, self.clock = sandbox, clock
        # Bound, never listening: so that nobody else gets the port while the proxy does not listen.
        self._claim = _bound(0)
        self._full: list[socket.socket] = []
        self.keep_alive = True
        """Whether the client may use a connection again."""
        self.proxied_requests: list[ProxiedRequest] = []
        self.failures: list[Exception] = []
        """What went wrong in the acts themselves."""
        self.refused: list[str] = []
        """How connections ended whose handshakes were done by hand."""
        self.heard = b""
        """What was said over them."""
        self._plans: list[_Plan] = []

    def inject(self, method: str, path: str, acts: Iterable[Act], *, endless: bool = False) -> None:
        """Play these acts, one for each request that fits, in place of passing it on; `endless` repeats the last."""
        self._plans.append(_Plan(method, path, list(acts), endless))

    def behave(self) -> None:
        """Do nothing wrong from now on."""
        self._plans.clear()

    def count(self, method: str, path: str) -> int:
        """Return how many requests of this kind have come, whatever became of them."""
        return len(self.of(method, path))

    def of(self, method: str, path: str) -> list[ProxiedRequest]:
        return [one for one in self.proxied_requests if one.method == method and fnmatchcase(one.path, path)]

    # Whether it can be reached at all.

    async def _listen(self) -> asyncio.Server:
        self._script = self._pass
        return await asyncio.start_server(self._serve, sock=self._another(), ssl=self._ssl)

    async def _instead(self, script: Script) -> None:
        """Give new connections to this script, without TLS of asyncio's."""
        await close_listener(self._server)
        self._script = script
        self._server = await asyncio.start_server(self._serve, sock=self._another())

    def _another(self) -> socket.socket:
        return _bound(self._claim.getsockname()[1])

    async def refuse(self) -> None:
        """Stop listening: the port refuses, and connections that are there go on."""
        await close_listener(self._server)

    async def fill(self) -> None:
        """Have a backlog that is full: the kernel answers no handshake any more, as behind a silent firewall."""
        await close_listener(self._server)
        listener = self._another()
        listener.listen(0)
        self._full.append(listener)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            self._full.append(filler)

    async def stall(self) -> asyncio.Event:
        """Take connections from now on, and say nothing in their handshakes; return what tells of the first."""
        heard = asyncio.Event()

        async def listen(connection: Connection) -> None:
            while await connection.reader.read(65536):
                heard.set()

        await self._instead(listen)
        return heard

    async def shake_hands(self, context: ssl.SSLContext, early: bytes = b"") -> None:
        """Do the TLS handshakes by hand from now on, and answer before anything is asked: in the last message of it.

        asyncio would close a handshake that fails without the alert that says why.
        """

        async def listen(connection: Connection) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            talk = context.wrap_bio(incoming, outgoing, server_side=True)
            shaken = False
            try:
                while True:
                    try:
                        if not shaken:
                            talk.do_handshake()
                            shaken = True
                            talk.write(early)
                        if not (said := talk.read()):
                            return  # they said goodbye
                        self.heard += said
                    except ssl.SSLWantReadError:
                        connection.send(outgoing.read())
                        incoming.write(await connection.reader.read(65536) or await connection.reader.readexactly(1))
            except ssl.SSLError as error:
                self.refused.append(error.reason)
                connection.send(outgoing.read())

        await self._instead(listen)

    async def accept(self) -> None:
        """Listen again."""
        while self._full:
            self._full.pop().close()
        await close_listener(self._server)
        self._server = await self._listen()

    async def _pass(self, connection: Connection) -> None:
        served = 0
        while not connection.writer.is_closing():
            head = await connection.reader.readuntil(b"\r\n\r\n")
            proxied = ProxiedRequest(self, connection, head, served)
            served += 1
            self.proxied_requests.append(proxied)
            acts = (plan.next(proxied) for plan in self._plans)
            act = next((act for act in acts if act is not None), pass_on)
            try:
                await act(proxied)
                await connection.writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                return  # the client is gone
            except Exception as error:
                self.failures.append(error)
                return
            if proxied.body is None:
                return  # what comes next is no head of a request

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for each in (self._claim, *self._full):
            each.close()
        if self.failures:
            raise self.failures[0]
