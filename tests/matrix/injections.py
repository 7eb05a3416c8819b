"""Faults of the connection: each handler responds to one proxied request in one faulty way."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any, Final

from tests.matrix.proxy import Handler, ProxiedRequest, ProxiedResponse, forward_request

__all__ = ["forward_request"]

TOO_LARGE: Final = 9 * 1024 * 1024
"""Larger than the client's limit for a response."""
_EXAMPLE: Final = ProxiedResponse(200, (("Content-Type", "application/json"),), b"").with_body(
    b'{"data":{"id":1},"success":true,"code":0,"message":""}'
)


async def _receive(proxied: ProxiedRequest, executed: bool) -> None:
    """Read the whole request, and forward it if the server must execute it."""
    await proxied.read()
    if executed:
        await proxied.forward()


def drop(*, executed: bool = False, reset: bool = False) -> Handler:
    """Close the connection instead of responding."""

    async def handler(proxied: ProxiedRequest) -> None:
        await _receive(proxied, executed)
        await proxied.close(reset=reset)

    return handler


class Gate:
    """A handler that holds the request before or after the server executes it, and then sends the response."""

    def __init__(self, *, executed: bool = False) -> None:
        self.arrived, self.proceed = asyncio.Event(), asyncio.Event()
        self._executed = executed

    async def __call__(self, proxied: ProxiedRequest) -> None:
        await proxied.read()
        response = await proxied.forward() if self._executed else None
        self.arrived.set()
        await self.proceed.wait()
        proxied.send((response or await proxied.forward()).raw)


async def drop_unread(proxied: ProxiedRequest) -> None:
    """Reset the connection while the body is still being sent."""
    await proxied.close(reset=True)


def never_respond(seconds: float, *, executed: bool = False) -> Handler:
    """Never respond, and advance the client's clock by this many seconds."""

    async def handler(proxied: ProxiedRequest) -> None:
        await _receive(proxied, executed)
        proxied.proxy.clock.advance(seconds)
        await proxied.wait_for_disconnect()

    return handler


def respond(raw: bytes, *, executed: bool = False, close: bool = False) -> Handler:
    """Respond with these bytes."""

    async def handler(proxied: ProxiedRequest) -> None:
        await _receive(proxied, executed)
        proxied.send(raw)
        if close:
            await proxied.close()

    return handler


def endless_response(seconds: float, raw: bytes, chunk: bytes, *, executed: bool = False) -> Handler:
    """Respond with these bytes and then with `chunk` repeatedly, and advance the client's clock by `seconds`."""

    async def handler(proxied: ProxiedRequest) -> None:
        await _receive(proxied, executed)
        proxied.send(raw)
        for _ in range(20):
            proxied.send(chunk)
            await proxied.connection.writer.drain()
        proxied.proxy.clock.advance(seconds)
        while not proxied.connection.writer.is_closing():
            proxied.send(chunk)
            await proxied.connection.writer.drain()
            await asyncio.sleep(0.001)

    return handler


def challenge(*challenges: str, executed: bool = False) -> Handler:
    """Respond with a 401 and these challenges."""
    headers = [("WWW-Authenticate", challenge) for challenge in challenges]
    return respond(envelope(401, *headers), executed=executed)


async def drop_authorization(proxied: ProxiedRequest) -> None:
    """Drop the `Authorization` header, so that the server responds with a challenge."""
    response = await proxied.forward(without="authorization")
    proxied.send(response.raw)


async def expire_nonces(proxied: ProxiedRequest) -> None:
    """Expire every nonce while the request is in flight."""
    proxied.proxy.sandbox.digest.rotate_nonces()
    proxied.send((await proxied.forward()).raw)


def redirect(status: int, *, executed: bool = False) -> Handler:
    """Redirect to the server itself, which would execute the request."""

    async def handler(proxied: ProxiedRequest) -> None:
        await _receive(proxied, executed)
        host, port = proxied.proxy.target
        proxied.send(page(status, ("Location", f"http://{host}:{port}{proxied.line.split(' ')[1]}")))

    return handler


def change_response(
    change: Callable[[ProxiedResponse], ProxiedResponse | bytes], *, executed: bool = True, close: bool = False
) -> Handler:
    """Change the server's response; if the request is not to be executed, change an example response."""

    async def handler(proxied: ProxiedRequest) -> None:
        await proxied.read()
        changed = change(await proxied.forward() if executed else _EXAMPLE)
        proxied.send(changed if isinstance(changed, bytes) else changed.raw)
        if close:
            await proxied.close()

    return handler


def document(body: bytes, status: int = 200, *headers: tuple[str, str], kind: str = "application/json") -> bytes:
    """Return a response with this body."""
    return ProxiedResponse(status, (("Content-Type", kind), *headers), b"").with_body(body).raw


def envelope(status: int, *headers: tuple[str, str], code: int | None = None, **more: Any) -> bytes:
    """Return a refusal in the vendor's envelope."""
    body = {"data": None, "success": False, "code": status if code is None else code, "message": "refused", **more}
    return document(json.dumps(body).encode(), status, *headers)


def page(status: int, *headers: tuple[str, str]) -> bytes:
    """Return the error page of a gateway."""
    body = f"<html><body><h1>{status}</h1><p>gateway</p></body></html>".encode()
    return document(body, status, *headers, kind="text/html")


def too_large() -> bytes:
    """Return a response over the size limit, with its Content-Length."""
    return document(_envelope_of(b'"' + b"a" * TOO_LARGE + b'"'))


def too_long() -> bytes:
    """Return a chunked response over the size limit."""
    body = _envelope_of(b'"' + b"a" * TOO_LARGE + b'"')
    head = ProxiedResponse(200, (("Transfer-Encoding", "chunked"),), b"").head
    return head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def bomb() -> bytes:
    """Return a decompression bomb: a small response that exceeds the limit after decompression."""
    return document(gzip.compress(_envelope_of(b'"' + b"a" * TOO_LARGE + b'"')), 200, ("Content-Encoding", "gzip"))


def cut(response: ProxiedResponse) -> bytes:
    """Return a response that is cut to half of its Content-Length."""
    return response.head + response.body[: len(response.body) // 2]


def cut_chunk(response: ProxiedResponse) -> bytes:
    """Return a chunked response that is cut in the middle of its chunk."""
    head = response.without("content-length").with_headers(("Transfer-Encoding", "chunked")).head
    return head + f"{len(response.body):x}\r\n".encode() + response.body[: len(response.body) // 2]


def no_last_chunk(response: ProxiedResponse) -> bytes:
    """Return a chunked response without its last chunk."""
    head = response.without("content-length").with_headers(("Transfer-Encoding", "chunked")).head
    return head + f"{len(response.body):x}\r\n".encode() + response.body + b"\r\n"


def _envelope_of(data: bytes) -> bytes:
    return b'{"data":' + data + b',"success":true,"code":0,"message":""}'


UNTRUSTED: Final = {
    "json": _envelope_of(b'{"id":1'),
    "page": b"<!DOCTYPE html><html><body>Welcome</body></html>",
    "empty": b"",
    "list": b"[]",
    "success": b'{"data":{},"success":"yes","code":0,"message":""}',
    "no-data": b'{"success":true,"code":0,"message":""}',
    "nan": _envelope_of(b'{"id":NaN}'),
    "deep": _envelope_of(b"[" * 10_000 + b"]" * 10_000),
    "twice": b'{"success":false,' + _envelope_of(b'{"id":1}')[1:],
    "bytes": b"\xff\xfe\x00",
}
"""Bodies of a 200 that prove nothing."""


def without(*fields: str) -> Handler:
    """Remove these fields from the data of the response."""
    return change_response(
        lambda found: found.with_data(lambda data: {key: data[key] for key in data.keys() - {*fields}})
    )


def with_values(**values: Any) -> Handler:
    """Replace these values in the data of the response."""
    return change_response(lambda found: found.with_data(lambda data: data | values))
