"""Bytes to exact models and back.

JSON with exact Decimals: money never passes through a float, and an answer that could be read in two ways
(duplicate keys, NaN) is refused. What the data has to look like is the business of `shapes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from decimal import Clamped, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow, Rounded, Subnormal
from functools import cache
from itertools import islice, repeat
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn, TypeVar, cast

from minted_connect.core.shapes import converter, explain
from minted_connect.errors import InvalidInput
from minted_connect.models import Basket

__all__ = ["Malformed", "Unfit", "dumps", "loads", "structure", "to_wire"]

T = TypeVar("T")

_EXACT: Final = Context(
    prec=100, Emin=-99, Emax=99, traps=[Clamped, Inexact, InvalidOperation, Overflow, Rounded, Subnormal]
)
"""Reads a number exactly or not at all; an exponent like 1e999999999 would explode in later arithmetic."""
_SPACE: Final = " \t\n\r"
_MOST_PROBLEMS: Final = 20
_NOTHING: Final[tuple[Any, ...]] = (None, [])


class Malformed(ValueError):
    """The bytes are not the JSON this library accepts; the text never quotes them."""


class Unfit(ValueError):
    """The data is not of the promised shape."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.problems = problems
        """What is wrong, each with its path (`data.items[0].sku: required field missing`), without values."""

    def __str__(self) -> str:
        return "; ".join(self.problems)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed("the same key twice in one object")
    return made


def _constant(_name: str) -> NoReturn:
    raise Malformed("NaN or Infinity in place of a number")


# The C scanner stays in use with these hooks; `raw_decode` spares two regular expressions a call.
_DECODER: Final = json.JSONDecoder(
    parse_float=_EXACT.create_decimal, parse_constant=_constant, object_pairs_hook=_object
)


def loads(body: bytes, *, max_depth: int = 64) -> Any:
    """Parse JSON; fractions become exact Decimals, whole numbers stay ints.

    Raises:
        Malformed: not UTF-8, not JSON, nested deeper than `max_depth`, a duplicate key, NaN, a number with more
            than 100 digits or an exponent beyond 99, or half a surrogate pair.
    """
    try:
        text = body.decode()
        if text[:1] in _SPACE:
            text = text.lstrip(_SPACE)
        data, end = _DECODER.raw_decode(text)
        if "\\" in text and ("\\ud" in text or "\\uD" in text):
            _refuse_half_characters(data)
    except Malformed:
        raise
    except UnicodeError:
        raise Malformed("not valid Unicode") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON, at character {error.pos}") from None
    except RecursionError:
        raise Malformed(f"nested deeper than {max_depth}") from None
    except (ValueError, DecimalException):
        raise Malformed("a number out of range") from None
    if end != len(text) and text[end:].strip(_SPACE):
        raise Malformed("something follows the JSON document")
    if body.count(b"[") + body.count(b"{") > max_depth and _deeper(data, max_depth):
        raise Malformed(f"nested deeper than {max_depth}")
    return data


def _deeper(data: Any, limit: int) -> bool:
    level: list[Any] = [[data]]
    for _ in range(limit + 1):
        # Only what can hold something more goes on to the next level: an answer is mostly plain values.
        level = [child for node in level for child in _children(node) if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", node).values() if type(node) is dict else cast("list[Any]", node)


def _refuse_half_characters(data: Any) -> None:
    json.dumps(data, ensure_ascii=False, default=str).encode()


def dumps(data: Any) -> bytes:
    """Write JSON; Decimals become exact numbers. `to_wire` makes such data out of models.

    Raises:
        InvalidInput: a text that is not valid Unicode, a Decimal that is not finite, a float, or anything else that
            JSON or exact money does not know.
    """
    try:
        return _written(data).encode()
    except UnicodeEncodeError:
        raise InvalidInput.of("body", "must be valid Unicode") from None


def _written(value: Any) -> str:
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
        return "{" + ",".join([f"{encode_basestring(name)}:{_written(item)}" for name, item in members]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_written(item) for item in cast("list[Any]", value)]) + "]"
    raise InvalidInput.of("body", f"must hold JSON values and Decimals, not {type(value).__name__}")


@cache
def _hook(type_: Any) -> Callable[[Any, Any], Any]:
    return converter().get_structure_hook(type_)


def structure(
    data: Any, type_: type[T], *, elapsed: Callable[[], float] | None = None, asked_at: float | None = None
) -> T:
    """Make a model, a `tuple[Model, ...]` or a `Page[Model]` out of parsed JSON; unknown keys stay in `raw`.

    Args:
        data: What `loads` returned, or its ``data``.
        type_: What to make of it.
        elapsed: The client's clock that runs on while the machine sleeps; stamps the price lock of a basket.
        asked_at: When the request went out; without it the lock is stamped with now.

    Raises:
        Unfit: the data is not of that shape.
    """
    try:
        made = _hook(cast("Any", type_))(data, type_)
    except Exception:  # noqa: BLE001 - whatever went wrong, the detailed pass names it
        raise Unfit(_problems(data, type_)) from None
    if elapsed is not None and isinstance(made, Basket) and made.price_fix is not None:
        # Frozen from here on; `attrs.evolve` would build both objects a second time.
        object.__setattr__(made.price_fix, "received_at", elapsed() if asked_at is None else asked_at)
        object.__setattr__(made.price_fix, "elapsed", elapsed)
    return cast("T", made)


def _problems(data: Any, type_: Any) -> tuple[str, ...]:
    try:
        converter(detailed=True).structure(data, type_)
    except Exception as error:  # noqa: BLE001 - foreign exceptions are explained too, without their texts
        return tuple(islice(explain(error, "data"), _MOST_PROBLEMS))
    return ("data: not of the promised shape",)


def to_wire(model: Any) -> Any:
    """Return a model, or a sequence of models, as JSON-ready data with the vendor's names, for `dumps`.

    A model that was received keeps the keys it came with: unknown ones are carried along, and what was absent
    stays absent unless it has been given a value.
    """
    wire = converter().unstructure(model)
    if isinstance(model, list | tuple):
        received: Any = [getattr(item, "raw", None) or None for item in cast("Iterable[Any]", model)]
    else:
        received = getattr(model, "raw", None) or None
    return _overlaid(wire, received)


def _overlaid(wire: Any, received: Any) -> Any:
    """Lay what a model says over what it was made of."""
    if isinstance(wire, dict):
        now, was = cast("dict[str, Any]", wire), cast("Mapping[str, Any]", received)
        if not isinstance(received, Mapping):
            return {name: _overlaid(value, None) for name, value in now.items()}
        said = {name: _overlaid(now[name], was.get(name)) for name in now if name in was or now[name] not in _NOTHING}
        return {**was, **said}
    if isinstance(wire, list | tuple):
        rows, old = cast("list[Any]", wire), cast("list[Any]", received)
        same = isinstance(received, list) and len(old) == len(rows)
        return [_overlaid(row, was) for row, was in zip(rows, old if same else repeat(None), strict=False)]
    return wire
