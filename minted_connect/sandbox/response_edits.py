"""Faults that only change the response of a request that is executed: each takes the `Response` and returns another."""

import gzip
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, cast

from attrs import evolve

from .fault_arguments import BodySize, Depth, Field, Json
from .fault_registry import fault
from .router import Response

_NUMBER = re.compile(rb'(":)(-?[0-9]+(?:\.[0-9]+)?)')


@fault(is_edit=True)
def empty(reply: Response) -> Response:
    """Send no body."""
    return evolve(reply, body=b"")


@fault(is_edit=True)
def invalid_json(reply: Response) -> Response:
    """Send the first half of the JSON."""
    payload = reply.payload()
    return evolve(reply, body=payload[: len(payload) // 2])


@fault(is_edit=True)
def nan(reply: Response) -> Response:
    """Send NaN as a number."""
    return evolve(reply, body=_NUMBER.sub(rb"\1NaN", reply.payload(), count=1))


@fault(is_edit=True)
def duplicate_keys(reply: Response) -> Response:
    """Send some keys of the envelope twice."""
    return evolve(reply, body=b'{"data":null,"success":false,' + reply.payload()[1:])


@fault(is_edit=True)
def deep(reply: Response, *, depth: Depth = 10_000) -> Response:
    """Send absurdly nested data."""
    return evolve(reply, body=b'{"data":' + b"[" * depth + b"]" * depth + b',"success":true,"code":0,"message":""}')


@fault(is_edit=True)
def too_large(reply: Response, *, size: BodySize = 9 * 1024 * 1024) -> Response:
    """Send a huge body."""
    return evolve(reply, body=_padded(size))


@fault(is_edit=True)
def gzip_bomb(reply: Response, *, size: BodySize = 64 * 1024 * 1024) -> Response:
    """Send a small body that is huge once it is decompressed."""
    return evolve(reply, body=_bomb(size), headers=(*reply.headers, ("Content-Encoding", "gzip")))


@fault(is_edit=True)
def wrong_customer(reply: Response, *, external_id: str = "somebody-else") -> Response:
    """Send data of another customer."""
    return evolve(reply, envelope=_swap_customer(reply.envelope, external_id))


@fault(is_edit=True)
def drop_field(reply: Response, *, field: Field = "") -> Response:
    """Leave out a field of `data`, as in `"items.*.sku"`.

    `field` is a dotted path inside `data` (`pricefix.remaining`, `items.0.sku`). In a list, `*` or leaving the place
    out means every row; rows of a page count as such a list. Where a response has no such field, nothing is dropped.
    """
    return _with_data(reply, field, "drop")


@fault(is_edit=True)
def extra_field(reply: Response, *, field: Field = "new_field", value: Json = "new") -> Response:
    """Add a field to `data`, or give one another value, as in `field="guid"`."""
    return _with_data(reply, field, "set", value)


def _padded(size: int) -> bytes:
    return b'{"data":"' + b"a" * size + b'","success":true,"code":0,"message":""}'


@lru_cache(maxsize=2)
def _bomb(size: int) -> bytes:
    return gzip.compress(_padded(size), mtime=0)


def _swap_customer(value: object, external_id: str, key: str = "") -> Any:
    """Copy a response with every customer's id replaced, wherever the vendor writes it."""
    if isinstance(value, list | tuple):
        return [_swap_customer(item, external_id, key) for item in cast("Iterable[object]", value)]
    if not isinstance(value, dict):
        return external_id if key == "customer_external_id" else value
    fields = cast("dict[str, object]", value)
    copy = {name: _swap_customer(item, external_id, name) for name, item in fields.items()}
    if "firstname" in copy and "external_id" in copy:
        copy["external_id"] = external_id
    return copy


def _with_data(reply: Response, path: str, act: Literal["drop", "set"], value: object = None) -> Response:
    """Copy a response with one field of `data` changed; see `drop_field` for the dotted path."""
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
    """Change a field in place; a field that the response does not have is passed over."""
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
