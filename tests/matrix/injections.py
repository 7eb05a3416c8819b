"""Faults on the wire: each act handles one proxied request in one faulty way."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any, Final

from tests.matrix.proxy import Act, Answer, ProxiedRequest, pass_on

__all__ = ["pass_on"]

BIG: Final = 9 * 1024 * 1024
"""More than the client takes for an answer."""
_MADE_UP: Final = Answer(200, (("Content-Type", "application/json"),), b"").with_body(
    b'{"data":{"id":1},"success":true,"code":0,"message":""}'
)


async def _arrive(proxied: ProxiedRequest, landed: bool) -> None:
    """Take the whole request off the wire, and pass it on if it is to land."""
    await proxied.read()
    if landed:
        await proxied.forward()


def drop(*, landed: bool = False, reset: bool = False) -> Act:
    """Break the connection in place of an answer."""

    async def act(proxied: ProxiedRequest) -> None:
        await _arrive(proxied, landed)
        await proxied.close(reset=reset)

    return act


class Gate:
    """An act that keeps the request waiting, and passes it on in the end: before the work, or after it."""

    def __init__(self, *, landed: bool = False) -> None:
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self._landed = landed

    async def __call__(self, proxied: ProxiedRequest) -> None:
        await proxied.read()
        answer = await proxied.forward() if self._landed else None
        self.arrived.set()
        await self.go_on.wait()
        proxied.send((answer or await proxied.forward()).raw)


async def drop_unread(proxied: ProxiedRequest) -> None:
    """Break the connection while the body is still on its way."""
    await proxied.close(reset=True)


def silence(seconds: float, *, landed: bool = False) -> Act:
    """Never answer: let so many seconds go by on the client's clock."""

    async def act(proxied: ProxiedRequest) -> None:
        await _arrive(proxied, landed)
        proxied.proxy.clock.advance(seconds)
        await proxied.gone()

    return act


def answer(raw: bytes, *, landed: bool = False, close: bool = False) -> Act:
    """Answer these bytes, whatever they are."""

    async def act(proxied: ProxiedRequest) -> None:
        await _arrive(proxied, landed)
        proxied.send(raw)
        if close:
            await proxied.close()

    return act


def unending(seconds: float, raw: bytes, drip: bytes, *, landed: bool = False) -> Act:
    """Answer these bytes, and then a little for ever: the client's clock is so many seconds further meanwhile."""

    async def act(proxied: ProxiedRequest) -> None:
        await _arrive(proxied, landed)
        proxied.send(raw)
        for _ in range(20):
            proxied.send(drip)
            await proxied.connection.writer.drain()
        proxied.proxy.clock.advance(seconds)
        while not proxied.connection.writer.is_closing():
            proxied.send(drip)
            await proxied.connection.writer.drain()
            await asyncio.sleep(0.001)

    return act


def challenge(*challenges: str, landed: bool = False) -> Act:
    """Refuse with these challenges."""
    lines = [("WWW-Authenticate", challenge) for challenge in challenges]
    return answer(envelope(401, *lines), landed=landed)


async def unsigned(proxied: ProxiedRequest) -> None:
    """Lose the signature on the way: the server asks for one, as it does of a stranger."""
    answer = await proxied.forward(without="authorization")
    proxied.send(answer.raw)


async def outdated(proxied: ProxiedRequest) -> None:
    """Let every nonce run out while the request is on its way."""
    proxied.proxy.sandbox.doorman.rotate_nonces()
    proxied.send((await proxied.forward()).raw)


def redirect(status: int, *, landed: bool = False) -> Act:
    """Point to the server itself, where the request would be carried out."""

    async def act(proxied: ProxiedRequest) -> None:
        await _arrive(proxied, landed)
        host, port = proxied.proxy.target
        proxied.send(page(status, ("Location", f"http://{host}:{port}{proxied.line.split(' ')[1]}")))

    return act


def spoilt(change: Callable[[Answer], Answer | bytes], *, landed: bool = True, close: bool = False) -> Act:
    """Spoil the server's answer, or if the request is not to land, one that looks like it."""

    async def act(proxied: ProxiedRequest) -> None:
        await proxied.read()
        changed = change(await proxied.forward() if landed else _MADE_UP)
        proxied.send(changed if isinstance(changed, bytes) else changed.raw)
        if close:
            await proxied.close()

    return act


def document(body: bytes, status: int = 200, *headers: tuple[str, str], kind: str = "application/json") -> bytes:
    """Return an answer with this body."""
    return Answer(status, (("Content-Type", kind), *headers), b"").with_body(body).raw


def envelope(status: int, *headers: tuple[str, str], code: int | None = None, **more: Any) -> bytes:
    """Return a refusal in the vendor's own words."""
    whole = {"data": None, "success": False, "code": status if code is None else code, "message": "no", **more}
    return document(json.dumps(whole).encode(), status, *headers)


def page(status: int, *headers: tuple[str, str]) -> bytes:
    """Return what a gateway on the way would say."""
    body = f"<html><body><h1>{status}</h1><p>gateway</p></body></html>".encode()
    return document(body, status, *headers, kind="text/html")


def too_large() -> bytes:
    """Return an answer that says how large it is."""
    return document(_envelope_of(b'"' + b"a" * BIG + b'"'))


def too_long() -> bytes:
    """Return an answer that does not say how large it is."""
    body = _envelope_of(b'"' + b"a" * BIG + b'"')
    head = Answer(200, (("Transfer-Encoding", "chunked"),), b"").head
    return head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def bomb() -> bytes:
    """Return a small answer that is large once it is inflated."""
    return document(gzip.compress(_envelope_of(b'"' + b"a" * BIG + b'"')), 200, ("Content-Encoding", "gzip"))


def cut(answer: Answer) -> bytes:
    """Return half of what Content-Length promises."""
    return answer.head + answer.body[: len(answer.body) // 2]


def cut_chunk(answer: Answer) -> bytes:
    """Return half of a chunk."""
    head = answer.without("content-length").having(("Transfer-Encoding", "chunked")).head
    return head + f"{len(answer.body):x}\r\n".encode() + answer.body[: len(answer.body) // 2]


def no_last_chunk(answer: Answer) -> bytes:
    """Return everything but the chunk that says that it is everything."""
    head = answer.without("content-length").having(("Transfer-Encoding", "chunked")).head
    return head + f"{len(answer.body):x}\r\n".encode() + answer.body + b"\r\n"


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


def without(*fields: str) -> Act:
    """Leave these fields out of the answer's data."""
    return spoilt(lambda found: found.with_data(lambda data: {key: data[key] for key in data.keys() - {*fields}}))


def with_values(**values: Any) -> Act:
    """Put other values into the answer's data."""
    return spoilt(lambda found: found.with_data(lambda data: data | values))
