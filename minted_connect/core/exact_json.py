"""Reads and writes JSON with exact Decimals: money never passes through a float.

Ambiguous documents (duplicate keys, NaN) are rejected. The converter checks the structure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Clamped, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow, Rounded, Subnormal
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn, cast

from minted_connect.errors import InvalidInput

__all__ = ["Malformed", "dumps", "loads"]

_EXACT: Final = Context(
    prec=100, Emin=-99, Emax=99, traps=[Clamped, Inexact, InvalidOperation, Overflow, Rounded, Subnormal]
)
"""Parses a number exactly or raises; an exponent like 1e999999999 would need gigabytes in later arithmetic."""
_SPACE: Final = " \t\n\r"
_BEFORE_DOCUMENT: Final = f"{_SPACE}\ufeff"
"""Skipped before a document. A PHP file that was saved with a byte order mark sends it (RFC 8259 section 8.1)."""


class Malformed(ValueError):
    """The bytes are not JSON that this library accepts. The text does not quote them."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("the same key twice in one object")
    return members


def _constant(_name: str) -> NoReturn:
    raise Malformed("NaN or Infinity in place of a number")


# These hooks do not disable the C scanner, and `raw_decode` saves two regular expressions per call.
_DECODER: Final = json.JSONDecoder(
    parse_float=_EXACT.create_decimal, parse_constant=_constant, object_pairs_hook=_object
)


def loads(body: bytes, *, max_depth: int = 64) -> Any:
    """Parse JSON. Fractions become exact Decimals, integers become ints. A byte order mark is skipped.

    Raises:
        Malformed: if the body is not UTF-8, not JSON or nested deeper than `max_depth`, or holds a duplicate key, NaN,
            a fraction with more than 100 digits or an exponent beyond 99, or a lone surrogate.
    """
    text = ""
    try:
        text = body.decode()
        if text[:1] in _BEFORE_DOCUMENT:
            text = text.lstrip(_BEFORE_DOCUMENT)
        data, end = _DECODER.raw_decode(text)
        if "\\" in text and ("\\ud" in text or "\\uD" in text):
            _reject_lone_surrogates(data)
    except Malformed:
        raise
    except UnicodeError:
        raise Malformed("not valid Unicode") from None
    except json.JSONDecodeError as error:
        if error.pos == 0 and _ends_with_object(text):
            raise Malformed("text before the JSON document, such as a PHP warning") from None
        raise Malformed(f"not JSON, at character {error.pos}") from None
    except RecursionError:
        raise Malformed(f"nested deeper than {max_depth}") from None
    except (ValueError, DecimalException):
        raise Malformed("a number out of range") from None
    if end != len(text) and text[end:].strip(_SPACE):
        raise Malformed("something follows the JSON document")
    if body.count(b"[") + body.count(b"{") > max_depth and _is_deeper(data, max_depth):
        raise Malformed(f"nested deeper than {max_depth}")
    return data


def _ends_with_object(text: str) -> bool:
    with suppress(ValueError, DecimalException, RecursionError):
        _, end = _DECODER.raw_decode(text, text.index('{"'))
        return not text[end:].strip(_SPACE)
    return False


def _is_deeper(data: Any, limit: int) -> bool:
    level: list[Any] = [[data]]
    for _ in range(limit + 1):
        # Only containers go to the next level: most values of a response are scalars.
        level = [child for node in level for child in _children(node) if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", node).values() if type(node) is dict else cast("list[Any]", node)


def _reject_lone_surrogates(data: Any) -> None:
    json.dumps(data, ensure_ascii=False, default=str).encode()


def dumps(data: Any) -> bytes:
    """Serialise to JSON. Decimals become exact numbers. `converter.unstructure` makes such data from models.

    Raises:
        InvalidInput: if the data holds a string that is not valid Unicode, a Decimal that is not finite, a float, or a
            value of any other type.
    """
    try:
        return _serialise(data).encode()
    except UnicodeEncodeError:
        raise InvalidInput.of("body", "must be valid Unicode") from None


def _serialise(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidInput.of("body", "must hold finite numbers only")
        return str(value)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value).items()
        return "{" + ",".join([f"{encode_basestring(name)}:{_serialise(item)}" for name, item in members]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_serialise(item) for item in cast("list[Any]", value)]) + "]"
    raise InvalidInput.of("body", f"must hold JSON values and Decimals, not {type(value).__name__}")
