"""Carries out scripted faults, where needed on the raw transport, as no polite server would."""

import gzip
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, cast

from aiohttp import web
from attrs import define, evolve

from .clock import Clock
from .faults import Fault
from .log import LoggedRequest
from .routes import Reply
from .texts import say
from .wire import encode, failure, success

_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
_NUMBER = re.compile(rb'(":)(-?[0-9]+(?:\.[0-9]+)?)')


@define
class Exchange:
    """One request on its way through the server.

    Attributes:
        request: aiohttp's view of it.
        entry: its line in the log, if there is a log.
        language: `tr` or `en`.
        process: reads the body, does what is asked, and returns the answer. Called at most once.
        respond: turns an answer into aiohttp's response.
        headers: returns the header lines of an answer with a body of that length.
        challenge: returns a 401 with `stale=true`.
        later: has `process` called so many seconds later, whatever becomes of the connection.
        clock: for delays.
    """

    request: web.BaseRequest
    entry: LoggedRequest | None
    language: str
    process: Callable[[], Awaitable[Reply]]
    respond: Callable[[Reply], web.Response]
    headers: Callable[[Reply], Iterable[tuple[str, str]]]
    challenge: Callable[[], Reply]
    later: Callable[[float], None]
    clock: Clock


_Act = Callable[[Exchange, dict[str, Any]], Awaitable[web.Response]]


async def misbehave(fault: Fault, exchange: Exchange) -> web.Response:
    """Let the fault happen to this request."""
    if exchange.entry:
        exchange.entry.fault = fault.kind
    if fault.kind == "hang":
        return await _hang(fault, exchange)
    args = dict(fault.args)
    if fault.kind in _EDITS:
        return exchange.respond(_EDITS[fault.kind](await exchange.process(), args))
    return await _ACTS[fault.kind](exchange, args)


async def _hang(fault: Fault, exchange: Exchange) -> web.Response:
    if fault.args["commit"]:
        reply = await exchange.process()
        await fault.removed()
    else:
        await fault.removed()
        reply = await exchange.process()
    return exchange.respond(reply)


# Faults that do something else than answer properly.


async def _delay(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    await exchange.clock.sleep(args["seconds"])
    return exchange.respond(await exchange.process())


async def _delay_after_commit(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    reply = await exchange.process()
    await exchange.clock.sleep(args["seconds"])
    return exchange.respond(reply)


async def _drop_before_read(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    return _hang_up(exchange, reset=args["reset"])


async def _drop_after_commit(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    await exchange.process()
    return _hang_up(exchange, reset=args["reset"])


async def _late_commit(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    await exchange.request.read()  # aiohttp keeps it; from a closed connection it could not be read any more
    exchange.later(args["seconds"])
    return _hang_up(exchange, reset=args["reset"])


async def _stale_nonce(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    del args
    return exchange.respond(exchange.challenge())


async def _status(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    if args["commit"]:
        await exchange.process()
    status = args["status"]
    headers = dict(args["headers"] or {})
    if args["retry_after"] is not None:
        headers["Retry-After"] = str(args["retry_after"])
    message = say("too_many" if status == 429 else "failed", exchange.language)
    envelope, body = failure(status, message), None
    if args["body"] is not None:
        given = args["body"]
        body = given if isinstance(given, bytes) else (given if isinstance(given, str) else encode(given)).encode()
    elif args["html"]:
        body, headers = _HTML, {"Content-Type": "text/html; charset=UTF-8", **headers}
    elif not args["envelope"]:
        body = b""
    return exchange.respond(Reply(status, envelope, tuple(headers.items()), body))


async def _rate_limit(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    return await _status(exchange, _arguments(status=429, **args))


async def _redirect(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    headers = {"Location": args["location"]}
    return await _status(exchange, _arguments(status=args["status"], headers=headers, html=True, commit=args["commit"]))


async def _html(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    return await _status(exchange, _arguments(status=args["status"], html=True, commit=args["commit"]))


def _arguments(**given: Any) -> dict[str, Any]:
    empty = {"body": None, "headers": None, "html": False, "envelope": True, "retry_after": None, "commit": False}
    return {**empty, **given}


async def _success_false(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    if args["commit"]:
        await exchange.process()
    message = args["message"] or say("failed", exchange.language)
    return exchange.respond(Reply(200, {**success(None), **failure(args["code"], message)}))


async def _truncate(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    reply = await exchange.process()
    payload = reply.payload()
    part = payload[: int(len(payload) * args["keep"])]
    if args["chunked"]:
        head = _head(exchange, reply, without="Content-Length", extra=[("Transfer-Encoding", "chunked")])
        part = f"{len(payload):x}\r\n".encode() + part
    else:
        head = _head(exchange, reply)
    return _raw(exchange, reply, head + part)


async def _slow_loris(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    reply = await exchange.process()
    head, payload = _head(exchange, reply), reply.payload()
    at_once, dripped = (head, payload) if args["where"] == "body" else (b"", head + payload)
    transport = _transport(exchange)
    _log(exchange, reply)
    transport.write(at_once)
    for position in range(len(dripped)):
        if transport.is_closing():
            break
        transport.write(dripped[position : position + 1])
        await exchange.clock.sleep(args["interval"])
    return _hang_up(exchange)


async def _interim(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    reply = await exchange.process()
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </>; rel=preload\r\n\r\n" * args["count"]
    return _raw(exchange, reply, early + _head(exchange, reply) + reply.payload())


async def _many_headers(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    reply = await exchange.process()
    extra = [(f"X-Filler-{number}", "x") for number in range(args["count"])]
    return _raw(exchange, reply, _head(exchange, reply, extra=extra) + reply.payload())


async def _long_header(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    reply = await exchange.process()
    head = _head(exchange, reply, extra=[("X-Filler", "x" * args["size"])])
    return _raw(exchange, reply, head + reply.payload())


async def _two_answers(exchange: Exchange, args: dict[str, Any]) -> web.Response:
    del args
    reply = await exchange.process()
    return _raw(exchange, reply, (_head(exchange, reply) + reply.payload()) * 2)


_ACTS: dict[str, _Act] = {
    "delay": _delay,
    "delay_after_commit": _delay_after_commit,
    "drop_after_commit": _drop_after_commit,
    "drop_before_read": _drop_before_read,
    "html": _html,
    "interim": _interim,
    "late_commit": _late_commit,
    "long_header": _long_header,
    "many_headers": _many_headers,
    "rate_limit": _rate_limit,
    "redirect": _redirect,
    "slow_loris": _slow_loris,
    "stale_nonce": _stale_nonce,
    "status": _status,
    "success_false": _success_false,
    "truncate": _truncate,
    "two_answers": _two_answers,
}


# Faults that only spoil the answer.


def _empty(reply: Reply, _: dict[str, Any]) -> Reply:
    return evolve(reply, body=b"")


def _invalid_json(reply: Reply, _: dict[str, Any]) -> Reply:
    payload = reply.payload()
    return evolve(reply, body=payload[: len(payload) // 2])


def _nan(reply: Reply, _: dict[str, Any]) -> Reply:
    return evolve(reply, body=_NUMBER.sub(rb"\1NaN", reply.payload(), count=1))


def _duplicate_keys(reply: Reply, _: dict[str, Any]) -> Reply:
    return evolve(reply, body=b'{"data":null,"success":false,' + reply.payload()[1:])


def _deep(reply: Reply, args: dict[str, Any]) -> Reply:
    depth = args["depth"]
    return evolve(reply, body=b'{"data":' + b"[" * depth + b"]" * depth + b',"success":true,"code":0,"message":""}')


def _too_large(reply: Reply, args: dict[str, Any]) -> Reply:
    return evolve(reply, body=_padded(args["size"]))


def _gzip_bomb(reply: Reply, args: dict[str, Any]) -> Reply:
    return evolve(reply, body=_bomb(args["size"]), headers=(*reply.headers, ("Content-Encoding", "gzip")))


def _wrong_customer(reply: Reply, args: dict[str, Any]) -> Reply:
    return evolve(reply, envelope=_swap_customer(reply.envelope, args["external_id"]))


def _drop_field(reply: Reply, args: dict[str, Any]) -> Reply:
    return _with_data(reply, args["field"], "drop")


def _extra_field(reply: Reply, args: dict[str, Any]) -> Reply:
    return _with_data(reply, args["field"], "set", args["value"])


_EDITS: dict[str, Callable[[Reply, dict[str, Any]], Reply]] = {
    "deep": _deep,
    "drop_field": _drop_field,
    "duplicate_keys": _duplicate_keys,
    "empty": _empty,
    "extra_field": _extra_field,
    "gzip_bomb": _gzip_bomb,
    "invalid_json": _invalid_json,
    "nan": _nan,
    "too_large": _too_large,
    "wrong_customer": _wrong_customer,
}


def _padded(size: int) -> bytes:
    return b'{"data":"' + b"a" * size + b'","success":true,"code":0,"message":""}'


@lru_cache(maxsize=2)
def _bomb(size: int) -> bytes:
    return gzip.compress(_padded(size), mtime=0)


def _swap_customer(value: object, external_id: str, key: str = "") -> Any:
    """Copy an answer with every customer's id replaced, wherever the vendor writes it."""
    if isinstance(value, list | tuple):
        return [_swap_customer(item, external_id, key) for item in cast("Iterable[object]", value)]
    if not isinstance(value, dict):
        return external_id if key == "customer_external_id" else value
    fields = cast("dict[str, object]", value)
    copy = {name: _swap_customer(item, external_id, name) for name, item in fields.items()}
    if "firstname" in copy and "external_id" in copy:
        copy["external_id"] = external_id
    return copy


def _with_data(reply: Reply, path: str, act: Literal["drop", "set"], value: object = None) -> Reply:
    """Copy an answer with one field of `data` changed; see `ARGUMENTS` for the dotted path."""
    copy = _copied(dict(reply.envelope))
    words, data = path.split("."), copy.get("data")
    if isinstance(data, dict) and "current_page" in data and words[0] not in data:
        words = ["data", *words]
    _edit(copy, ["data", *words], act, value)
    return evolve(reply, envelope=copy)


def _copied(value: object) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in cast("Iterable[object]", value)]
    return value


def _edit(where: object, path: list[str], act: Literal["drop", "set"], value: object) -> None:
    """Change a field in place; what the answer does not have is passed over."""
    first, rest = path[0], path[1:]
    if isinstance(where, list):
        rows = cast("list[object]", where)
        if first != "*" and not first.isdecimal():
            first, rest = "*", path
        # From the end, so that dropping a row moves none that is still to come.
        for place in reversed(range(len(rows)) if first == "*" else range(len(rows))[int(first) :][:1]):
            if rest:
                _edit(rows[place], rest, act, value)
            elif act == "drop":
                del rows[place]
            else:
                rows[place] = value
    elif isinstance(where, dict):
        fields = cast("dict[str, object]", where)
        if rest:
            _edit(fields.get(first), rest, act, value)
        elif act == "drop":
            fields.pop(first, None)
        else:
            fields[first] = value


# The raw transport.


def _transport(exchange: Exchange) -> Any:
    transport = exchange.request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    return transport


def _log(exchange: Exchange, reply: Reply) -> None:
    if exchange.entry:
        exchange.entry.status = reply.status


def _head(exchange: Exchange, reply: Reply, *, without: str = "", extra: Iterable[tuple[str, str]] = ()) -> bytes:
    lines = [f"{name}: {value}" for name, value in (*exchange.headers(reply), *extra) if name != without]
    return "\r\n".join([f"HTTP/1.1 {reply.status} Fault", *lines, "", ""]).encode()


def _raw(exchange: Exchange, reply: Reply, data: bytes) -> web.Response:
    """Write bytes as they are and close the connection."""
    _log(exchange, reply)
    _transport(exchange).write(data)
    return _hang_up(exchange)


def _hang_up(exchange: Exchange, *, reset: bool = False) -> web.Response:
    """Close the connection, with a TCP reset if wanted; the response returned can not be sent any more."""
    transport = exchange.request.transport
    if transport is not None and reset:
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    elif transport is not None:
        transport.close()
    return web.Response()
