"""JSON as the vendor sends it: exact decimals, in an envelope."""

import json
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, NoReturn, cast

Json = None | bool | int | str | Decimal | list["Json"] | dict[str, "Json"]
"""A JSON value with exact decimals, without floats."""

Object = dict[str, Json]


def format_number(value: Decimal) -> str:
    """Format a decimal as the vendor does: `1852.6`, and `3` if whole (evidence guide, "Common to all operations")."""
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def encode(value: object) -> str:
    """Encode a value as compact JSON in ASCII, without floats.

    Raises:
        TypeError: if a value has another type than those of `Json`, or is a subclass of one.
    """
    try:
        return _WRITERS[type(value)](value)
    except KeyError:
        raise TypeError(f"{type(value).__name__} cannot be encoded as JSON") from None


def _object(value: dict[str, object]) -> str:
    return "{" + ",".join([_key(name) + encode(item) for name, item in value.items()]) + "}"


def _array(value: Iterable[object]) -> str:
    return "[" + ",".join([encode(item) for item in value]) + "]"


_WRITERS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    Decimal: format_number,
    dict: _object,
    int: str,
    list: _array,
    str: encode_basestring_ascii,
    tuple: _array,
    type(None): lambda _: "null",
}


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    return encode_basestring_ascii(name) + ":"


def decode(text: bytes | str) -> Json:
    """Decode JSON with exact decimals.

    Raises:
        ValueError: if the text is not JSON, or contains NaN, Infinity or an exponent that `Decimal` does not support.
    """
    try:
        return cast("Json", json.loads(text, parse_float=Decimal, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except InvalidOperation:
        raise ValueError("a number is out of range") from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def success(data: Any) -> dict[str, Any]:
    """Return the envelope of a success."""
    return {"data": data, "success": True, "code": 0, "message": ""}


def failure(
    status: int, message: str, errors: Mapping[str, list[str]] | None = None, data: Any = None
) -> dict[str, Any]:
    """Return the envelope of an error. Working assumption: `code` repeats the status."""
    envelope: dict[str, Any] = {"data": data, "success": False, "code": status, "message": message}
    if errors:
        envelope["errors"] = errors
    return envelope
