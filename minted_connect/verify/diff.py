"""Comparing what came with what a model expects, by names and JSON types alone."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Union, cast, get_args, get_origin

import attrs

from minted_connect.core.converter_hooks import json_name
from minted_connect.models import Page

__all__ = ["Differences", "differences"]

_PAGINATOR: Final = frozenset(
    {"first_page_url", "from", "last_page_url", "links", "next_page_url", "path", "prev_page_url", "to"}
)
"""Keys of the documented paginator that `Page` leaves in its `raw`."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_TYPES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",  # before the int that it is, too
    int: "number",
    Decimal: "number",
    list: "array",
    dict: "object",
}


@attrs.frozen
class Differences:
    """What an answer has more, and what it has less, than the model."""

    unknown: tuple[str, ...] = ()
    """Fields that the model does not know, with their JSON types (`data[].lock_token: string`)."""
    missing: tuple[str, ...] = ()
    """Fields of the model that no row has (`data[].sku`)."""


def differences(data: Any, type_: Any) -> Differences:
    """Compare `data` of an answer with the type that it is read as; rows of an array are looked at together."""
    unknown: list[str] = []
    missing: list[str] = []
    for path, class_, nodes in _nodes("data", type_, [data]):
        known = {json_name(class_, field.name): field for field in attrs.fields(class_) if field.eq}
        there = {name: value for node in nodes for name, value in node.items()}
        more = [name for name in there if name not in known and not (class_ is Page and name in _PAGINATOR)]
        unknown += [f"{path}.{_shown(name)}: {_type(there[name])}" for name in more]
        missing += [f"{path}.{name}" for name in known if name not in there]
    return Differences(tuple(unknown), tuple(missing))


def _nodes(path: str, type_: Any, values: list[Any]) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Yield each class that the type consists of, with its path and the objects found there."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in {Union, types.UnionType}:
        for part in arguments:
            yield from _nodes(path, part, values)
    elif origin is tuple:
        lists: list[list[Any]] = [value for value in values if isinstance(value, list)]
        rows = [row for one in lists for row in one]
        yield from _nodes(f"{path}[]", arguments[0], rows)
    elif attrs.has(class_ := origin or type_):
        nodes = [cast("dict[str, Any]", value) for value in values if isinstance(value, dict)]
        if not nodes:
            return
        yield path, class_, nodes
        for field in attrs.fields(attrs.resolve_types(class_)):
            if field.eq:
                name = json_name(class_, field.name)
                inner = field.type[arguments] if getattr(field.type, "__parameters__", ()) else field.type
                yield from _nodes(f"{path}.{name}", inner, list(_found(nodes, name)))


def _found(nodes: Iterable[dict[str, Any]], name: str) -> Iterator[Any]:
    return (node[name] for node in nodes if name in node)


def _shown(name: str) -> str:
    # A key that is no identifier may be somebody's name or number.
    return name if _NAME.fullmatch(name) else "(a key that is not a name)"


def _type(value: Any) -> str:
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "null")
