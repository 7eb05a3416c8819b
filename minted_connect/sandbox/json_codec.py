"""JSON as the vendor writes it: exact decimals both ways, inside the envelope."""

import json
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, NoReturn, cast

Json = None | bool | int | str | Decimal | list["Json"] | dict[str, "Json"]
"""What JSON can hold here; there are no floats."""

Object = dict[str, Json]


def number(value: Decimal) -> str:
    """Write a decimal as the vendor does: `1852.6`, and `3` when whole (walletable.md 1.7)."""
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def encode(value: object) -> str:
    """Write a value as compact JSON in ASCII; money never passes a float."""
    try:
        return _WRITERS[type(value)](value)
    except KeyError:
        raise TypeError(f"{type(value).__name__} does not belong into an answer") from None


def _object(value: dict[str, object]) -> str:
    return "{" + ",".join([_key(name) + encode(item) for name, item in value.items()]) + "}"


def _array(value: Iterable[object]) -> str:
    return "[" + ",".join([encode(item) for item in value]) + "]"


_WRITERS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    Decimal: number,
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
    """Read JSON with exact decimals; NaN and Infinity are refused.

    Raises:
        ValueError: this is not JSON.
    """
    try:
        return cast("Json", json.loads(text, parse_float=Decimal, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def success(data: Any) -> dict[str, Any]:
    """Put data into the envelope of a success (walletable.md 1.4)."""
    return {"data": data, "success": True, "code": 0, "message": ""}


def failure(
    status: int, message: str, errors: Mapping[str, list[str]] | None = None, data: Any = None
) -> dict[str, Any]:
    """Put an error into the envelope: `code` repeats the status.

    Working assumption (unverified), walletable.md 1.5.
    """
    envelope: dict[str, Any] = {"data": data, "success": False, "code": status, "message": message}
    if errors:
        envelope["errors"] = errors
    return envelope
