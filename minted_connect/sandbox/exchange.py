"""One request on its way through the sandbox: admit it, process it now or later, respond to it."""

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
from .router import Dispatcher, Incoming, Response, language_of
from .shop import Shop

ReadsBasket = Literal["execution", "acceptance"]


class Server(Protocol):
    """The parts of a sandbox that a request passes."""

    clock: Clock
    doorman: DigestVerifier

    @property
    def routes(self) -> Dispatcher:
        """The operations."""
        ...

    @property
    def shop(self) -> Shop:
        """The state."""
        ...

    def http_date(self) -> str:
        """Return the shop's time as an HTTP date."""
        ...

    def run_later(self, seconds: float, work: Callable[[], Awaitable[object]], fault: Fault | None) -> None:
        """Do work after some seconds of the shop's time; the request is in flight in the fault until then."""
        ...


@define(eq=False)
class FaultContext:
    """One request, what is known of it by now, and what can be done with it.

    Attributes:
        request: aiohttp's view of it.
        request_id: sent back as `X-Request-Id`.
        entry: its line in the log, if there is a log.
        language: `tr` or `en`.
        username: the partner who sent it; None until the digest was checked.
        fault: what struck it.
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

    async def admit(self) -> str | Response:
        """Check the digest, once; return the partner's username, or the refusal."""
        if self.username is not None:
            return self.username
        doorman, authorization = self._server.doorman, self.request.headers.get("Authorization")
        body = await self.request.read() if doorman.wants_body(authorization) else b""
        verdict = doorman.check(self.request.method, self.request.raw_path, authorization, body)
        if self.entry:
            self.entry.partner, self.entry.nonce, self.entry.nc = verdict.username, verdict.nonce, verdict.nc
        self.username = verdict.username
        if self.username is not None:
            return self.username
        if verdict.status == 400:
            return Response(400, failure(400, translate("wrong_uri", self.language)))
        return self.challenge(stale=verdict.stale)

    def challenge(self, *, stale: bool) -> Response:
        """Return a 401 with a new nonce."""
        lines = tuple(("WWW-Authenticate", line) for line in self._server.doorman.challenges(stale=stale))
        return Response(401, failure(401, translate("unauthenticated", self.language)), lines)

    async def process(self, accepted: AcceptedBasket | None = None) -> Response:
        """Check the digest, read the body, execute the request and return the reply.

        Args:
            accepted: the basket as it was when the request came in, to be completed in place of the present one.
        """
        username = await self.admit()
        if isinstance(username, Response):
            return username
        incoming = await self._incoming(accepted)
        if self.entry and incoming.body:
            try:
                self.entry.body = decode(incoming.body)
            except ValueError:
                self.entry.body = incoming.body
        return self._server.routes.answer(username, incoming)

    async def process_later(self, seconds: float, reads_basket: ReadsBasket) -> None:
        """Execute the request after some seconds of the shop's time, also when the connection is gone.

        Args:
            seconds: how much later.
            reads_basket: which basket a completion completes: the one found on execution, or the one of now.
        """
        await self.request.read()  # aiohttp keeps the body; it could not be read from a closed connection
        accepted: AcceptedBasket | None = None
        if reads_basket == "acceptance" and isinstance(username := await self.admit(), str):
            accepted = self._server.routes.accept(username, await self._incoming())
        self.is_deferred = True
        self._server.run_later(seconds, lambda: self.process(accepted), self.fault)

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds of the shop's time."""
        await sleep_elapsed(self._server.clock, seconds)

    async def fault_removed(self) -> None:
        """Wait until the fault that struck is removed."""
        if self.fault is not None:
            await self.fault.removed()

    def respond(self, reply: Response) -> web.Response:
        """Turn a reply into aiohttp's response."""
        self.note_status(reply)
        payload = reply.payload()
        return web.Response(body=payload, status=reply.status, headers=CIMultiDict(self.head_lines(reply, payload)))

    def note_status(self, reply: Response) -> None:
        """Write the status into the log."""
        if self.entry:
            self.entry.status = reply.status

    def head_lines(self, reply: Response, payload: bytes) -> Iterable[tuple[str, str]]:
        """Return all header lines of a reply with that body."""
        headers = [
            ("Date", self._server.http_date()),
            ("Server", "minted-connect-sandbox"),
            ("X-Request-Id", self.request_id),
            ("Content-Length", str(len(payload))),
            *reply.headers,
        ]
        if all(name.lower() != "content-type" for name, _ in reply.headers):
            headers.append(("Content-Type", "application/json"))
        return headers

    async def _incoming(self, accepted: AcceptedBasket | None = None) -> Incoming:
        request = self.request
        body = await request.read() if request.body_exists else b""
        return Incoming(request.method, request.raw_path, request.headers, body, accepted)


def context_of(server: Server, request: web.BaseRequest, request_id: str, entry: LoggedRequest | None) -> FaultContext:
    """Return the context of a request that just came in."""
    language = language_of(request.headers.get("Accept-Language"))
    return FaultContext(server, request, request_id, entry, language)
