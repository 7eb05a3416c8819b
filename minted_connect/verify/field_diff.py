"""Compares response data with the model it is read as, by field names and JSON types."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Union, cast, get_args, get_origin

import attrs

from minted_connect.models import Page
from minted_connect.models.json_keys import is_in_json, json_name

__all__ = ["Differences", "diff"]

_PAGINATOR: Final = frozenset(
    {"first_page_url", "from", "last_page_url", "links", "next_page_url", "path", "prev_page_url", "to"}
)
"""Keys of the documented paginator that `Page` keeps only in `raw`."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_JSON_TYPES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",  # before int, of which bool is a subclass
    int: "number",
    Decimal: "number",
    list: "array",
    dict: "object",
}


@attrs.frozen
class Differences:
    """Fields in which response data and a model differ."""

    unknown: tuple[str, ...] = ()
    """Fields that the model does not have, with their JSON types (`data[].lock_token: string`)."""
    missing: tuple[str, ...] = ()
    """Fields of the model that no row has (`data[].sku`)."""


def diff(data: Any, type_: Any) -> Differences:
    """Compare the `data` of a response with the type it is read as. The fields of all rows of an array are merged."""
    unknown: list[str] = []
    missing: list[str] = []
    for path, class_, objects in _iter_classes("data", type_, [data]):
        fields = {json_name(class_, field.name): field for field in attrs.fields(class_) if is_in_json(field)}
        received = {name: value for object_ in objects for name, value in object_.items()}
        extra = [name for name in received if name not in fields and not (class_ is Page and name in _PAGINATOR)]
        unknown += [f"{path}.{_mask_key(name)}: {_json_type(received[name])}" for name in extra]
        missing += [f"{path}.{name}" for name in fields if name not in received]
    return Differences(tuple(unknown), tuple(missing))


def _iter_classes(path: str, type_: Any, values: list[Any]) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Yield each attrs class inside a type, with its path and the JSON objects at that path."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in {Union, types.UnionType}:
        for argument in arguments:
            yield from _iter_classes(path, argument, values)
    elif origin is tuple:
        arrays: list[list[Any]] = [value for value in values if isinstance(value, list)]
        rows = [row for array in arrays for row in array]
        yield from _iter_classes(f"{path}[]", arguments[0], rows)
    elif attrs.has(class_ := origin or type_):
        objects = [cast("dict[str, Any]", value) for value in values if isinstance(value, dict)]
        if not objects:
            return
        yield path, class_, objects
        for field in attrs.fields(attrs.resolve_types(class_)):
            if is_in_json(field):
                name = json_name(class_, field.name)
                inner = field.type[arguments] if getattr(field.type, "__parameters__", ()) else field.type
                yield from _iter_classes(f"{path}.{name}", inner, list(_values_of(objects, name)))


def _values_of(objects: Iterable[dict[str, Any]], name: str) -> Iterator[Any]:
    return (object_[name] for object_ in objects if name in object_)


def _mask_key(name: str) -> str:
    # A key that is not an identifier may be personal data, such as a name or a telephone number.
    return name if _NAME.fullmatch(name) else "(a key that is not a name)"


def _json_type(value: Any) -> str:
    return next((name for class_, name in _JSON_TYPES.items() if isinstance(value, class_)), "null")
