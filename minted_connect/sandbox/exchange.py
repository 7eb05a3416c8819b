"""One request in the sandbox: authenticate it, execute it now or later, respond to it."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, Protocol

from aiohttp import web
from attrs import define
from multidict import CIMultiDict

from .clock import Clock, sleep_elapsed
from .digest_auth import DigestVerifier
from .entities import AcceptedBasket
from .fault_handle import Fault
from .json_codec import decode, failure
from .messages import translate
from .request_log import LoggedRequest
from .router import Dispatcher, IncomingRequest, Response, parse_language
from .shop import Shop

ReadsBasket = Literal["execution", "acceptance"]


class Server(Protocol):
    """The parts of a sandbox that processing a request needs."""

    clock: Clock
    digest: DigestVerifier

    @property
    def dispatcher(self) -> Dispatcher:
        """The dispatcher of authenticated requests."""
        ...

    @property
    def shop(self) -> Shop:
        """The state."""
        ...

    def http_date(self) -> str:
        """Return the shop's time as an HTTP date."""
        ...

    def run_later(self, seconds: float, work: Callable[[], Awaitable[object]], fault: Fault | None) -> None:
        """Run `work` after some seconds of the shop's time; the request is in flight in the fault until then."""
        ...


@define(eq=False)
class FaultContext:
    """One request, its state so far, and the operations that faults combine.

    Attributes:
        request: the request as aiohttp received it.
        request_id: sent back as `X-Request-Id`.
        entry: its entry in the log, if the log is on.
        language: `tr` or `en`.
        username: the authenticated partner; None before authentication.
        fault: the fault that matches it, if any.
        is_deferred: whether it is executed after the response.
    """

    _server: Server
    request: web.BaseRequest
    request_id: str
    entry: LoggedRequest | None
    language: str
    username: str | None = None
    fault: Fault | None = None
    is_deferred: bool = False

    @property
    def shop(self) -> Shop:
        """The state."""
        return self._server.shop

    async def authenticate(self) -> str | Response:
        """Verify the digest unless this request has already passed; return the partner's username, or the refusal."""
        if self.username is not None:
            return self.username
        digest, authorization = self._server.digest, self.request.headers.get("Authorization")
        body = await self.request.read() if digest.needs_body(authorization) else b""
        result = digest.check(self.request.method, self.request.raw_path, authorization, body)
        if self.entry:
            self.entry.partner, self.entry.nonce, self.entry.nc = result.username, result.nonce, result.nc
        self.username = result.username
        if self.username is not None:
            return self.username
        if result.status == 400:
            return Response(400, failure(400, translate("wrong_uri", self.language)))
        return self.challenge(stale=result.stale)

    def challenge(self, *, stale: bool) -> Response:
        """Return a 401 with a new nonce."""
        lines = tuple(("WWW-Authenticate", line) for line in self._server.digest.challenges(stale=stale))
        return Response(401, failure(401, translate("unauthenticated", self.language)), lines)

    async def process(self, accepted: AcceptedBasket | None = None) -> Response:
        """Verify the digest, read the body, execute the request and return the response.

        Args:
            accepted: for a completion, the basket as it was when the request was accepted; None for the present one.
        """
        username = await self.authenticate()
        if isinstance(username, Response):
            return username
        incoming = await self._read_request(accepted)
        if self.entry and incoming.body:
            try:
                self.entry.body = decode(incoming.body)
            except ValueError:
                self.entry.body = incoming.body
        return self._server.dispatcher.dispatch(username, incoming)

    async def process_later(self, seconds: float, reads_basket: ReadsBasket) -> None:
        """Execute the request after some seconds of the shop's time, also if the connection is closed by then.

        Args:
            seconds: the delay.
            reads_basket: whether a completion uses the basket as it is on execution, or as it is now.
        """
        await self.request.read()  # aiohttp keeps the body; it cannot be read once the connection is closed
        accepted: AcceptedBasket | None = None
        if reads_basket == "acceptance" and isinstance(username := await self.authenticate(), str):
            accepted = self._server.dispatcher.accept(username, await self._read_request())
        self.is_deferred = True
        self._server.run_later(seconds, lambda: self.process(accepted), self.fault)

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds of the shop's time."""
        await sleep_elapsed(self._server.clock, seconds)

    async def wait_fault_removed(self) -> None:
        """Wait until the matching fault is removed."""
        if self.fault is not None:
            await self.fault.wait_removed()

    def respond(self, response: Response) -> web.Response:
        """Log the status and return the response for aiohttp to send."""
        self.log_status(response)
        payload = response.payload()
        headers = CIMultiDict(self.build_headers(response, payload))
        return web.Response(body=payload, status=response.status, headers=headers)

    def log_status(self, response: Response) -> None:
        """Set the status in the log."""
        if self.entry:
            self.entry.status = response.status

    def build_headers(self, response: Response, payload: bytes) -> Iterable[tuple[str, str]]:
        """Return all headers of a response with that body."""
        headers = [
            ("Date", self._server.http_date()),
            ("Server", "minted-connect-sandbox"),
            ("X-Request-Id", self.request_id),
            ("Content-Length", str(len(payload))),
            *response.headers,
        ]
        if all(name.lower() != "content-type" for name, _ in response.headers):
            headers.append(("Content-Type", "application/json"))
        return headers

    async def _read_request(self, accepted: AcceptedBasket | None = None) -> IncomingRequest:
        request = self.request
        body = await request.read() if request.body_exists else b""
        return IncomingRequest(request.method, request.raw_path, request.headers, body, accepted)


def reset_connection(transport: asyncio.Transport | None) -> None:
    """Close a connection by a TCP reset, if it is still open."""
    if transport is not None:
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def make_context(
    server: Server, request: web.BaseRequest, request_id: str, entry: LoggedRequest | None
) -> FaultContext:
    """Return the context of a new request."""
    language = parse_language(request.headers.get("Accept-Language"))
    return FaultContext(server, request, request_id, entry, language)
