"""Faults that delay, break or replace the response, some of them on the raw transport.

A fault is one function: its name is the kind, its keyword-only parameters are the arguments, with their defaults.
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from aiohttp import web
from attrs import evolve

from .entities import id_of_status
from .exchange import FaultContext, ReadsBasket, reset_connection
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
from .router import Response, parse_query

_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
_HTML_HEADERS = {"Content-Type": "text/html; charset=UTF-8"}


def _seconds(args: Mapping[str, Any]) -> float:
    return cast("float", args["seconds"])


def _seconds_after_refusal(args: Mapping[str, Any]) -> float:
    return _seconds(args) if args["commit"] == "after" else 0.0


def _until_removed(args: Mapping[str, Any]) -> float | None:
    return 0.0 if args["commit"] else None


# Faults of timing and of the connection.


@fault(execution_delay=_seconds)
async def delay(context: FaultContext, *, seconds: Seconds = 1.0) -> web.Response:
    """Wait before the request is executed."""
    await context.sleep(seconds)
    return context.respond(await context.process())


@fault
async def delay_after_commit(context: FaultContext, *, seconds: Seconds = 1.0) -> web.Response:
    """Wait after the request is executed."""
    response = await context.process()
    await context.sleep(seconds)
    return context.respond(response)


@fault(execution_delay=_until_removed)
async def hang(context: FaultContext, *, commit: bool = False) -> web.Response:
    """Hold the response back until the fault is removed; execute at once with `commit`, else on removal."""
    if commit:
        response = await context.process()
        await context.wait_fault_removed()
    else:
        await context.wait_fault_removed()
        response = await context.process()
    return context.respond(response)


@fault
async def drop_before_read(context: FaultContext, *, reset: bool = False) -> web.Response:
    """Drop the connection without executing the request."""
    return _close(context, reset=reset)


@fault
async def drop_after_commit(context: FaultContext, *, reset: bool = False) -> web.Response:
    """Drop the connection after the request is executed."""
    await context.process()
    return _close(context, reset=reset)


@fault(execution_delay=_seconds)
async def late_commit(
    context: FaultContext, *, seconds: Seconds = 30.0, reset: bool = False, reads_basket: ReadsBasket = "execution"
) -> web.Response:
    """Drop the connection at once and execute `seconds` later, with the basket as it is then or was on arrival."""
    await context.process_later(seconds, reads_basket)
    return _close(context, reset=reset)


@fault
async def slow_loris(
    context: FaultContext, *, interval: Seconds = 1.0, where: Literal["body", "head"] = "body"
) -> web.Response:
    """Send the response, or only its body, one byte every `interval` seconds."""
    response = await context.process()
    head, payload = _head(context, response), response.payload()
    first, rest = (head, payload) if where == "body" else (b"", head + payload)
    transport = _transport(context)
    context.log_status(response)
    transport.write(first)
    for index in range(len(rest)):
        if transport.is_closing():
            break
        transport.write(rest[index : index + 1])
        await context.sleep(interval)
    return _close(context)


# Faults that respond with an error, or with something else than the result.


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
    return context.respond(_error_response(context, status, sent, content))


@fault
async def rate_limit(context: FaultContext, *, retry_after: RetryAfter = 1, commit: bool = False) -> web.Response:
    """Respond with 429."""
    if commit:
        await context.process()
    return context.respond(_error_response(context, 429, _retry_after(retry_after)))


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
    return context.respond(_error_response(context, status, {**_HTML_HEADERS, "Location": location}, _HTML))


@fault
async def html(context: FaultContext, *, status: HttpStatus = 200, commit: bool = True) -> web.Response:
    """Respond with a web page instead of JSON."""
    if commit:
        await context.process()
    return context.respond(_error_response(context, status, _HTML_HEADERS, _HTML))


@fault
async def success_false(
    context: FaultContext, *, code: Whole = 1, message: str | None = None, commit: bool = False
) -> web.Response:
    """Respond with 200 and `success: false`."""
    if commit:
        await context.process()
    refused = failure(code, message or translate("failed", context.language))
    return context.respond(Response(200, {**success(None), **refused}))


@fault(execution_delay=_seconds_after_refusal)
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
    """Respond with a refusal, and execute the request before it, `seconds` after it, or never."""
    if commit == "before":
        await context.process()
    elif commit == "after":
        await context.process_later(seconds, reads_basket)
    sent = {**_retry_after(retry_after), **_gateway_challenge(challenge)}
    if is_envelope:
        return context.respond(_error_response(context, status, sent))
    return context.respond(_error_response(context, status, {**_HTML_HEADERS, **sent}, _HTML))


@fault
async def order_status(
    context: FaultContext, *, name: Name = "Cancelled", where: Literal["response", "list", "both"] = "both"
) -> web.Response:
    """Show another status for the orders of this response: only here, only in later responses ("list"), or in both."""
    response = await context.process()
    orders = _orders_in(response)
    if where != "response":
        for order in orders:
            context.shop.set_status(cast("int", order["id"]), name)
    if where != "list" and orders:
        status = {"status_id": id_of_status(name), "status_name": name}
        data = response.envelope["data"]
        if "current_page" in cast("dict[str, object]", data):
            data = {**cast("dict[str, object]", data), "data": [{**order, **status} for order in orders]}
        else:
            data = {**orders[0], **status}
        response = evolve(response, envelope={**response.envelope, "data": data})
    return context.respond(response)


@fault
async def page_drift(context: FaultContext, *, change: Literal["insert", "remove"] = "insert") -> web.Response:
    """Change the list of orders between page 1 and later ones: the newest order joins the list, or leaves it.

    Hides the order in the responses that the fault is applied to, and in no other one.
    """
    partner = await context.authenticate()
    if isinstance(partner, Response):
        return context.respond(partner)
    # After this, `process` does not suspend, so that no other request is processed while the order is hidden.
    await context.request.read()
    shop = context.shop
    newest = max(shop.orders_of(partner), key=lambda order: (order.ordered, order.id), default=None)
    is_first = parse_query(context.request.raw_path).get("page", "1") == "1"
    if newest is None or newest.id in shop.unlisted or is_first != (change == "insert"):
        return context.respond(await context.process())
    shop.set_listed(newest.id, is_listed=False)
    try:
        return context.respond(await context.process())
    finally:
        shop.set_listed(newest.id, is_listed=True)


def _error_response(
    context: FaultContext, status: int, headers: Mapping[str, str], body: bytes | None = None
) -> Response:
    """Return an error response in the vendor's envelope, or with another body."""
    message = translate("too_many" if status == 429 else "failed", context.language)
    return Response(status, failure(status, message), tuple(headers.items()), body)


def _retry_after(value: float | str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": str(value)}


def _gateway_challenge(challenge: str | None) -> dict[str, str]:
    """Return the challenge of a gateway in front of the vendor."""
    if challenge is None:
        return {}
    realm = 'realm="gateway"'
    if challenge == "basic":
        return {"WWW-Authenticate": f"Basic {realm}"}
    return {"WWW-Authenticate": f'Digest {realm}, nonce="{secrets.token_urlsafe(24)}", qop="auth", algorithm=SHA-256'}


def _orders_in(response: Response) -> list[dict[str, object]]:
    """Return the orders in a response: one, or the rows of a page."""
    data = response.envelope.get("data")
    if not isinstance(data, dict):
        return []
    found = cast("dict[str, object]", data)
    rows = cast("list[object]", found["data"]) if "current_page" in found else [found]
    orders = [cast("dict[str, object]", row) for row in rows if isinstance(row, dict)]
    return [order for order in orders if order.get("order_creation_status") == "order"]


# Faults of the HTTP message.


@fault
async def truncate(context: FaultContext, *, keep: Share = 0.5, chunked: bool = False) -> web.Response:
    """Break off in the middle of the body."""
    response = await context.process()
    payload = response.payload()
    part = payload[: int(len(payload) * keep)]
    if chunked:
        head = _head(context, response, without="Content-Length", extra=[("Transfer-Encoding", "chunked")])
        part = f"{len(payload):x}\r\n".encode() + part
    else:
        head = _head(context, response)
    return _send_raw(context, response, head + part)


@fault
async def interim(context: FaultContext, *, count: Count = 100, commit: bool = True) -> web.Response:
    """Send 1xx responses first; without `commit` a 500 follows, and the request is not executed."""
    response = await context.process() if commit else _error_response(context, 500, {})
    interim_responses = b"HTTP/1.1 103 Early Hints\r\nLink: </>; rel=preload\r\n\r\n" * count
    return _send_raw(context, response, interim_responses + _head(context, response) + response.payload())


@fault
async def many_headers(context: FaultContext, *, count: Count = 200) -> web.Response:
    """Send `count` additional header lines."""
    response = await context.process()
    extra = [(f"X-Filler-{number}", "x") for number in range(count)]
    return _send_raw(context, response, _head(context, response, extra=extra) + response.payload())


@fault
async def long_header(context: FaultContext, *, size: HeaderSize = 16_384) -> web.Response:
    """Send a header line with a value of `size` characters."""
    response = await context.process()
    head = _head(context, response, extra=[("X-Filler", "x" * size)])
    return _send_raw(context, response, head + response.payload())


@fault
async def two_answers(context: FaultContext, *, keep_alive: bool = False) -> web.Response:
    """Send the response twice; with `keep_alive` the second one precedes the next request of the connection."""
    response = await context.process()
    data = _head(context, response) + response.payload()
    if not keep_alive:
        return _send_raw(context, response, data * 2)
    transport, sent = _transport(context), context.respond(response)
    await sent.prepare(context.request)
    await sent.write_eof()
    transport.write(data)
    return sent


# The raw transport.


def _transport(context: FaultContext) -> Any:
    transport = context.request.transport
    if transport is None:
        raise ConnectionResetError("the client has disconnected")
    return transport


def _head(
    context: FaultContext, response: Response, *, without: str = "", extra: Iterable[tuple[str, str]] = ()
) -> bytes:
    lines = [*context.build_headers(response, response.payload()), *extra]
    headers = [f"{name}: {value}" for name, value in lines if name != without]
    return "\r\n".join([f"HTTP/1.1 {response.status} Fault", *headers, "", ""]).encode()


def _send_raw(context: FaultContext, response: Response, data: bytes) -> web.Response:
    """Send bytes unchanged and close the connection."""
    context.log_status(response)
    _transport(context).write(data)
    return _close(context)


def _close(context: FaultContext, *, reset: bool = False) -> web.Response:
    """Close the connection, with `reset` by a TCP reset. The returned response cannot be sent any more."""
    transport = context.request.transport
    if reset:
        reset_connection(transport)
    elif transport is not None:
        transport.close()
    return web.Response()
