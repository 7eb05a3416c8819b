"""Faults that do something else than respond properly, where needed on the raw transport, as no polite server would.

A fault is one function: its name is the kind, its keyword-only defaults are the arguments.
"""

import secrets
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from aiohttp import web
from attrs import evolve

from .exchange import FaultContext, ReadsBasket
from .fault_arguments import (
    BodyOrJson,
    Count,
    HeaderLines,
    HeaderSize,
    HeaderValue,
    HttpStatus,
    Name,
    RetryAfter,
    Seconds,
    Share,
    Whole,
)
from .fault_registry import fault
from .json_codec import encode, failure, success
from .messages import translate
from .router import Response
from .statuses import id_of_status

_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
_HTML_HEADERS = {"Content-Type": "text/html; charset=UTF-8"}


def _seconds(args: Mapping[str, Any]) -> float:
    return cast("float", args["seconds"])


def _seconds_after_refusal(args: Mapping[str, Any]) -> float:
    return _seconds(args) if args["commit"] == "after" else 0.0


def _until_removed(args: Mapping[str, Any]) -> float | None:
    return 0.0 if args["commit"] else None


# Faults of time and of the connection.


@fault(landing=_seconds)
async def delay(context: FaultContext, *, seconds: Seconds = 1.0) -> web.Response:
    """Wait before the work is done."""
    await context.sleep(seconds)
    return context.respond(await context.process())


@fault
async def delay_after_commit(context: FaultContext, *, seconds: Seconds = 1.0) -> web.Response:
    """Wait after the work is done."""
    reply = await context.process()
    await context.sleep(seconds)
    return context.respond(reply)


@fault(landing=_until_removed)
async def hang(context: FaultContext, *, commit: bool = False) -> web.Response:
    """Hold the response back until the fault is removed; do the work at once with `commit`, else on removal."""
    if commit:
        reply = await context.process()
        await context.fault_removed()
    else:
        await context.fault_removed()
        reply = await context.process()
    return context.respond(reply)


@fault
async def drop_before_read(context: FaultContext, *, reset: bool = False) -> web.Response:
    """Drop the connection before the work is done."""
    return _hang_up(context, reset=reset)


@fault
async def drop_after_commit(context: FaultContext, *, reset: bool = False) -> web.Response:
    """Drop the connection after the work is done."""
    await context.process()
    return _hang_up(context, reset=reset)


@fault(landing=_seconds)
async def late_commit(
    context: FaultContext, *, seconds: Seconds = 30.0, reset: bool = False, reads_basket: ReadsBasket = "execution"
) -> web.Response:
    """Drop the connection at once and do the work `seconds` later, with the basket of that time or of the request."""
    await context.process_later(seconds, reads_basket)
    return _hang_up(context, reset=reset)


@fault
async def slow_loris(
    context: FaultContext, *, interval: Seconds = 1.0, where: Literal["body", "head"] = "body"
) -> web.Response:
    """Send one byte at a time."""
    reply = await context.process()
    head, payload = _head(context, reply), reply.payload()
    at_once, dripped = (head, payload) if where == "body" else (b"", head + payload)
    transport = _transport(context)
    context.note_status(reply)
    transport.write(at_once)
    for position in range(len(dripped)):
        if transport.is_closing():
            break
        transport.write(dripped[position : position + 1])
        await context.sleep(interval)
    return _hang_up(context)


# Faults that refuse a request, or seem to.


@fault
async def stale_nonce(context: FaultContext) -> web.Response:
    """Respond with 401 and `stale=true`, so that the client repeats the digest handshake."""
    return context.respond(context.challenge(stale=True))


@fault
async def status(
    context: FaultContext,
    *,
    status: HttpStatus = 500,
    body: BodyOrJson = None,
    headers: HeaderLines = None,
    html: bool = False,
    envelope: bool = True,
    retry_after: RetryAfter = None,
    commit: bool = False,
) -> web.Response:
    """Respond with an error status and any body."""
    if commit:
        await context.process()
    sent = {**(headers or {}), **_retry_after(retry_after)}
    content: bytes | None = None
    if body is not None:
        content = body if isinstance(body, bytes) else (body if isinstance(body, str) else encode(body)).encode()
    elif html:
        content, sent = _HTML, {**_HTML_HEADERS, **sent}
    elif not envelope:
        content = b""
    return context.respond(_failed(context, status, sent, content))


@fault
async def rate_limit(context: FaultContext, *, retry_after: RetryAfter = 1, commit: bool = False) -> web.Response:
    """Respond with 429."""
    if commit:
        await context.process()
    return context.respond(_failed(context, 429, _retry_after(retry_after)))


@fault
async def redirect(
    context: FaultContext,
    *,
    location: HeaderValue = "https://files.example.com/elsewhere",
    status: HttpStatus = 302,
    commit: bool = False,
) -> web.Response:
    """Respond with a redirect."""
    if commit:
        await context.process()
    return context.respond(_failed(context, status, {**_HTML_HEADERS, "Location": location}, _HTML))


@fault
async def html(context: FaultContext, *, status: HttpStatus = 200, commit: bool = True) -> web.Response:
    """Respond with a web page instead of JSON."""
    if commit:
        await context.process()
    return context.respond(_failed(context, status, _HTML_HEADERS, _HTML))


@fault
async def success_false(
    context: FaultContext, *, code: Whole = 1, message: str | None = None, commit: bool = False
) -> web.Response:
    """Respond with 200 and `success: false`."""
    if commit:
        await context.process()
    refused = failure(code, message or translate("failed", context.language))
    return context.respond(Response(200, {**success(None), **refused}))


@fault(landing=_seconds_after_refusal)
async def refusal(
    context: FaultContext,
    *,
    status: HttpStatus = 403,
    is_envelope: bool = True,
    retry_after: RetryAfter = None,
    challenge: Literal["basic", "digest_other_realm"] | None = None,
    commit: Literal["before", "after", "never"] = "before",
    seconds: Seconds = 30.0,
    reads_basket: ReadsBasket = "execution",
) -> web.Response:
    """Refuse a request, and execute it before the response, `seconds` after it, or never."""
    if commit == "before":
        await context.process()
    elif commit == "after":
        await context.process_later(seconds, reads_basket)
    sent = {**_retry_after(retry_after), **_foreign_challenge(challenge)}
    if is_envelope:
        return context.respond(_failed(context, status, sent))
    return context.respond(_failed(context, status, {**_HTML_HEADERS, **sent}, _HTML))


@fault
async def order_status(
    context: FaultContext, *, name: Name = "Cancelled", where: Literal["response", "list", "both"] = "both"
) -> web.Response:
    """Show the orders of this response in another status: in it, in the list from then on, or in both."""
    reply = await context.process()
    orders = _orders_in(reply)
    if where != "response":
        for order in orders:
            context.shop.set_status(cast("int", order["id"]), name)
    if where != "list" and orders:
        shown = {"status_id": id_of_status(name), "status_name": name}
        data = reply.envelope["data"]
        if "current_page" in cast("dict[str, object]", data):
            data = {**cast("dict[str, object]", data), "data": [{**order, **shown} for order in orders]}
        else:
            data = {**orders[0], **shown}
        reply = evolve(reply, envelope={**reply.envelope, "data": data})
    return context.respond(reply)


def _failed(context: FaultContext, status: int, headers: Mapping[str, str], body: bytes | None = None) -> Response:
    """Return a refusal in the vendor's envelope, or with a body instead."""
    message = translate("too_many" if status == 429 else "failed", context.language)
    return Response(status, failure(status, message), tuple(headers.items()), body)


def _retry_after(value: float | str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": str(value)}


def _foreign_challenge(challenge: str | None) -> dict[str, str]:
    """Return the challenge that a gateway in front of the vendor would send."""
    if challenge is None:
        return {}
    realm = 'realm="gateway"'
    if challenge == "basic":
        return {"WWW-Authenticate": f"Basic {realm}"}
    return {"WWW-Authenticate": f'Digest {realm}, nonce="{secrets.token_urlsafe(24)}", qop="auth", algorithm=SHA-256'}


def _orders_in(reply: Response) -> list[dict[str, object]]:
    """Return the orders of a response: one, or the rows of a page."""
    data = reply.envelope.get("data")
    if not isinstance(data, dict):
        return []
    found = cast("dict[str, object]", data)
    rows = cast("list[object]", found["data"]) if "current_page" in found else [found]
    orders = [cast("dict[str, object]", row) for row in rows if isinstance(row, dict)]
    return [order for order in orders if order.get("order_creation_status") == "order"]


# Faults of HTTP itself.


@fault
async def truncate(context: FaultContext, *, keep: Share = 0.5, chunked: bool = False) -> web.Response:
    """Break off the body."""
    reply = await context.process()
    payload = reply.payload()
    part = payload[: int(len(payload) * keep)]
    if chunked:
        head = _head(context, reply, without="Content-Length", extra=[("Transfer-Encoding", "chunked")])
        part = f"{len(payload):x}\r\n".encode() + part
    else:
        head = _head(context, reply)
    return _raw(context, reply, head + part)


@fault
async def interim(context: FaultContext, *, count: Count = 100, commit: bool = True) -> web.Response:
    """Send 1xx responses first; without `commit` a 500 follows them."""
    reply = await context.process() if commit else _failed(context, 500, {})
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </>; rel=preload\r\n\r\n" * count
    return _raw(context, reply, early + _head(context, reply) + reply.payload())


@fault
async def many_headers(context: FaultContext, *, count: Count = 200) -> web.Response:
    """Send too many header lines."""
    reply = await context.process()
    extra = [(f"X-Filler-{number}", "x") for number in range(count)]
    return _raw(context, reply, _head(context, reply, extra=extra) + reply.payload())


@fault
async def long_header(context: FaultContext, *, size: HeaderSize = 16_384) -> web.Response:
    """Send one huge header line."""
    reply = await context.process()
    head = _head(context, reply, extra=[("X-Filler", "x" * size)])
    return _raw(context, reply, head + reply.payload())


@fault
async def two_answers(context: FaultContext) -> web.Response:
    """Respond twice."""
    reply = await context.process()
    return _raw(context, reply, (_head(context, reply) + reply.payload()) * 2)


# The raw transport.


def _transport(context: FaultContext) -> Any:
    transport = context.request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    return transport


def _head(context: FaultContext, reply: Response, *, without: str = "", extra: Iterable[tuple[str, str]] = ()) -> bytes:
    lines = [*context.head_lines(reply, reply.payload()), *extra]
    shown = [f"{name}: {value}" for name, value in lines if name != without]
    return "\r\n".join([f"HTTP/1.1 {reply.status} Fault", *shown, "", ""]).encode()


def _raw(context: FaultContext, reply: Response, data: bytes) -> web.Response:
    """Write bytes as they are and close the connection."""
    context.note_status(reply)
    _transport(context).write(data)
    return _hang_up(context)


def _hang_up(context: FaultContext, *, reset: bool = False) -> web.Response:
    """Close the connection, with a TCP reset if wanted; the response returned can not be sent any more."""
    transport = context.request.transport
    if transport is not None and reset:
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    elif transport is not None:
        transport.close()
    return web.Response()
