"""Faults that execute the request and edit its response: each takes a `Response` and returns another."""

import gzip
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, cast

from attrs import evolve

from .fault_arguments import BodySize, Depth, Field, Json, RowId
from .fault_registry import fault
from .router import Response

_NUMBER = re.compile(rb'(":)(-?[0-9]+(?:\.[0-9]+)?)')


@fault(is_edit=True)
def empty(response: Response) -> Response:
    """Send no body."""
    return evolve(response, body=b"")


@fault(is_edit=True)
def invalid_json(response: Response) -> Response:
    """Send the first half of the JSON."""
    payload = response.payload()
    return evolve(response, body=payload[: len(payload) // 2])


@fault(is_edit=True)
def nan(response: Response) -> Response:
    """Send NaN as a number."""
    return evolve(response, body=_NUMBER.sub(rb"\1NaN", response.payload(), count=1))


@fault(is_edit=True)
def duplicate_keys(response: Response) -> Response:
    """Send `data` and `success` twice, first with null and false."""
    return evolve(response, body=b'{"data":null,"success":false,' + response.payload()[1:])


@fault(is_edit=True)
def deep(response: Response, *, depth: Depth = 10_000) -> Response:
    """Send data that is nested `depth` levels deep."""
    return evolve(response, body=b'{"data":' + b"[" * depth + b"]" * depth + b',"success":true,"code":0,"message":""}')


@fault(is_edit=True)
def too_large(response: Response, *, size: BodySize = 9 * 1024 * 1024) -> Response:
    """Send a body with `size` bytes of data."""
    return evolve(response, body=_padded(size))


@fault(is_edit=True)
def gzip_bomb(response: Response, *, size: BodySize = 64 * 1024 * 1024) -> Response:
    """Send a small body that decompresses to `size` bytes of data."""
    return evolve(response, body=_make_gzip_bomb(size), headers=(*response.headers, ("Content-Encoding", "gzip")))


@fault(is_edit=True)
def wrong_customer(response: Response, *, external_id: str = "somebody-else") -> Response:
    """Send the data with the id of another customer."""
    return evolve(response, envelope=_swap_customer(response.envelope, external_id))


@fault(is_edit=True)
def drop_field(response: Response, *, field: Field = "") -> Response:
    """Remove a field of `data`, such as `"items.*.sku"`.

    `field` is a dotted path inside `data` (`pricefix.remaining`, `items.0.sku`). In a list, `*` selects all
    rows, and so does a path without an index; a page counts as the list of its rows. A response without the field is
    not changed.
    """
    return _with_data(response, field, "drop")


@fault(is_edit=True)
def extra_field(response: Response, *, field: Field = "new_field", value: Json = "new") -> Response:
    """Add a field to `data`, or replace its value, as in `field="guid"`."""
    return _with_data(response, field, "set", value)


@fault(is_edit=True)
def odd_row(response: Response, *, row_id: RowId = None, field: Field = "order_at", value: Json = "?") -> Response:
    """Replace a field of one row of a page: of the row with this `id`, or of the first row."""
    copy = _deep_copy(dict(response.envelope))
    data: Any = copy.get("data")
    if not isinstance(data, dict) or "current_page" not in data:
        return response
    # With `quirks="laravel"` an id is a string.
    rows = cast("list[dict[str, object]]", data["data"])
    for row in [row for row in rows if row_id is None or str(row["id"]) == str(row_id)][:1]:
        _edit(row, field.split("."), "set", value)
    return evolve(response, envelope=copy)


def _padded(size: int) -> bytes:
    return b'{"data":"' + b"a" * size + b'","success":true,"code":0,"message":""}'


@lru_cache(maxsize=2)
def _make_gzip_bomb(size: int) -> bytes:
    return gzip.compress(_padded(size), mtime=0)


def _swap_customer(value: object, external_id: str, key: str = "") -> Any:
    """Copy a value with the `external_id` of all customers replaced."""
    if isinstance(value, list | tuple):
        return [_swap_customer(item, external_id, key) for item in cast("Iterable[object]", value)]
    if not isinstance(value, dict):
        return external_id if key == "customer_external_id" else value
    fields = cast("dict[str, object]", value)
    copy = {name: _swap_customer(item, external_id, name) for name, item in fields.items()}
    if "firstname" in copy and "external_id" in copy:
        copy["external_id"] = external_id
    return copy


def _with_data(response: Response, path: str, action: Literal["drop", "set"], value: object = None) -> Response:
    """Copy a response with one field of `data` changed; see `drop_field` for the path."""
    copy = _deep_copy(dict(response.envelope))
    parts, data = path.split("."), copy.get("data")
    if isinstance(data, dict) and "current_page" in data and parts[0] not in data:
        parts = ["data", *parts]
    _edit(copy, ["data", *parts], action, value)
    return evolve(response, envelope=copy)


def _deep_copy(value: object) -> Any:
    if isinstance(value, dict):
        return {name: _deep_copy(item) for name, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_deep_copy(item) for item in cast("Iterable[object]", value)]
    return value


def _edit(target: object, path: list[str], action: Literal["drop", "set"], value: object) -> None:
    """Change a field in place; a missing field is ignored."""
    first, rest = path[0], path[1:]
    if isinstance(target, list):
        rows = cast("list[object]", target)
        if first != "*" and not first.isdecimal():
            first, rest = "*", path
        # Backwards, so that deleting a row does not move the rows that follow.
        for index in reversed(range(len(rows)) if first == "*" else range(len(rows))[int(first) :][:1]):
            if rest:
                _edit(rows[index], rest, action, value)
            elif action == "drop":
                del rows[index]
            else:
                rows[index] = value
    elif isinstance(target, dict):
        fields = cast("dict[str, object]", target)
        if rest:
            _edit(fields.get(first), rest, action, value)
        elif action == "drop":
            fields.pop(first, None)
        else:
            fields[first] = value
