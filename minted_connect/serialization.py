"""Converts models to plain data and JSON, and back: `to_dict`, `to_json`, `from_dict` and `from_json`.

Keys are the names of attributes, not the vendor's. In JSON, money and weights are strings with all their digits, and
times are ISO 8601 with their offset, because most readers of JSON convert numbers to floats.
"""

from __future__ import annotations

import enum
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final, Literal, TypeVar, cast, get_args, get_origin

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import list_structure_factory
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from minted_connect.core import exact_json
from minted_connect.core.model_decoder import RuleBroken, is_enum, is_mapping, is_model, is_union
from minted_connect.errors import InvalidInput
from minted_connect.models.deal import OrderKind
from minted_connect.models.json_keys import json_name
from minted_connect.models.masking import STARS, is_masked

__all__ = ["from_dict", "from_json", "is_data", "to_dict", "to_json", "to_json_value"]

_T = TypeVar("_T")

_DIGITS: Final = 100
_NUMBER: Final = re.compile(rf"-?[0-9]{{1,{_DIGITS}}}(\.[0-9]{{1,{_DIGITS}}})?([eE][+-]?[0-9]{{1,2}})?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d(:\d\d)?)")
_UNKNOWN: Final = "unknown"
"""Key of the fields of a response that the models do not know."""


def is_data(field: attrs.Attribute[Any]) -> bool:
    """Return whether a field is part of the data of its model, unlike `raw` and the clock of a price lock."""
    return bool(field.eq or field.repr)


# --- to plain data ---------------------------------------------------------------------------------------------------


def to_dict(
    model: attrs.AttrsInstance,
    *,
    mode: Literal["python", "json"] = "python",
    redact: bool = False,
    unknown: bool = False,
) -> dict[str, Any]:
    """Convert a model to nested dicts, keyed by attribute name.

    `raw`, and the send time and clock of a price lock, are left out. `from_dict` restores the model.

    Args:
        model: Any model of this package.
        mode: `"python"` keeps `Decimal`, dates, times and enumerations; in `"json"`, all values can be passed to
            `json.dumps`: money and weights are strings, and times are ISO 8601.
        redact: Replace values that the `repr` masks by `***`.
        unknown: Include the fields of the response, or of the row of a page, that the model does not know, with their
            names in JSON, as the key `unknown`. Those of its items and of the customer are not included.

    Raises:
        InvalidInput: if `model` is not a model, or `mode` is another one.
    """
    if mode not in ("python", "json"):
        raise InvalidInput.of("mode", "must be 'python' or 'json'")
    if isinstance(model, type) or not attrs.has(type(model)):
        raise InvalidInput.of("model", "must be a model of this library")
    found = _to_dict(model, redact, unknown)
    return cast("dict[str, Any]", to_json_value(found)) if mode == "json" else found


def _to_dict(model: attrs.AttrsInstance, redact: bool, unknown: bool) -> dict[str, Any]:
    found = {
        field.name: _to_plain(getattr(model, field.name), redact, unknown, masks=is_masked(field))
        for field in attrs.fields(type(model))
        if is_data(field)
    }
    raw = getattr(model, "raw", None)
    if unknown and isinstance(raw, Mapping):
        names = {json_name(type(model), name) for name in found}
        others = {name: value for name, value in cast("Mapping[str, Any]", raw).items() if name not in names}
        if others:
            found[_UNKNOWN] = STARS if redact else others
    return found


def _to_plain(value: Any, redact: bool, unknown: bool, *, masks: bool = False) -> Any:
    if redact and masks:
        return value if value is None or value == "" else STARS
    if attrs.has(value.__class__):
        return _to_dict(value, redact, unknown)
    if isinstance(value, tuple | list):
        return [_to_plain(item, redact, unknown) for item in cast("tuple[Any, ...]", value)]
    return value


def to_json_value(value: Any, *, redact: bool = False, unknown: bool = False) -> Any:
    """Convert models, and mappings and sequences that contain models, to values for `json.dumps`.

    Raises:
        InvalidInput: if a value has another type, or a number is not finite.
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput.of("value", "must contain finite numbers only")
        return value
    if isinstance(value, Decimal):
        if not value.is_finite() or not _NUMBER.fullmatch(text := format(value, "f")):
            raise InvalidInput.of("value", f"must contain finite numbers with at most {_DIGITS} digits only")
        return text
    if isinstance(value, datetime):
        return re.sub(r"\+00:00$", "Z", value.isoformat())  # as pydantic
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        members = cast("Mapping[object, Any]", value).items()
        if not all(isinstance(name, str) for name, _ in members):
            raise InvalidInput.of("value", "must have text as keys of its objects")
        return {str(name): to_json_value(item, redact=redact, unknown=unknown) for name, item in members}
    if isinstance(value, list | tuple):
        return [to_json_value(item, redact=redact, unknown=unknown) for item in cast("list[Any]", value)]
    if attrs.has(value.__class__):
        return to_json_value(_to_dict(value, redact, unknown))
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    name = type(value).__name__
    raise InvalidInput.of("value", f"must consist of models, numbers, times and text, not {name}")


def to_json(value: Any, *, redact: bool = False, unknown: bool = False, indent: int | None = None) -> str:
    """Convert a model, a list of models, or a mapping that contains models, to JSON.

    Args:
        value: The model or models.
        redact: As in `to_dict`.
        unknown: As in `to_dict`.
        indent: Number of spaces of a level; None = one line.

    Raises:
        InvalidInput: if a value has no form in JSON, such as an infinite number or a set.
    """
    separators = (",", ":") if indent is None else None
    try:
        plain = to_json_value(value, redact=redact, unknown=unknown)
        text = json.dumps(plain, ensure_ascii=False, indent=indent, separators=separators)
        text.encode()
    except UnicodeEncodeError:
        rule = "must contain valid Unicode only"
    except RecursionError:
        rule = "must not be nested so deeply, or contain itself"
    except InvalidInput:
        raise
    except ValueError:  # Python limits the digits of a whole number
        rule = "must not contain whole numbers of thousands of digits"
    else:
        return text
    raise InvalidInput.of("value", rule)


# --- from plain data -------------------------------------------------------------------------------------------------


def from_dict(type_: type[_T], data: Any) -> _T:
    """Restore what `to_dict` converted, in either mode: `from_dict(Order, data)`, `from_dict(list[Rate], data)`.

    The result equals the original. `raw` contains the key `unknown` only. A price lock counts as expired, as after
    pickling. A number with a fraction in `Payment.details` or `billingaddress` stays a string if it was converted to
    JSON.

    Args:
        type_: A model class, or `list`, `tuple` or `Page` of one.
        data: The dicts and lists.

    Raises:
        InvalidInput: if the data does not match; `.field` is the path of the first mismatch. Keys that the model does
            not have, and floats, are mismatches.
    """
    if not _is_restorable(type_):
        raise InvalidInput.of("type_", "must be a model class, or a list, tuple or page of one")
    try:
        return _converter().structure(data, type_)
    except Exception as error:  # noqa: BLE001 - texts of foreign exceptions quote values
        field, rule = _describe(error)
    raise InvalidInput.of(field, rule)


def from_json(type_: type[_T], text: str | bytes) -> _T:
    """Restore what `to_json` converted: `from_json(Order, text)`, `from_json(list[Rate], text)`.

    Fractions in the JSON text become exact Decimals.

    Args:
        type_: As in `from_dict`.
        text: The JSON document.

    Raises:
        InvalidInput: if the text is not JSON, contains a key twice, or does not match (as `from_dict`).
    """
    try:
        data = exact_json.loads(text.encode() if isinstance(text, str) else text)
    except (exact_json.Malformed, UnicodeEncodeError) as error:
        problem = str(error) if isinstance(error, exact_json.Malformed) else "not valid Unicode"
    else:
        return from_dict(type_, data)
    raise InvalidInput.of("text", f"must be JSON: {problem}")


def _is_restorable(type_: Any) -> bool:
    origin = get_origin(type_) or type_
    if origin in (list, tuple):
        return any(_is_restorable(part) for part in get_args(type_))
    return isinstance(origin, type) and attrs.has(origin)


def _describe(error: Exception) -> tuple[str, str]:
    """Return path and rule of the first mismatch."""
    first = transform_error(error, path="data", format_exception=_format_rule)[0]
    rule, _, path = first.rpartition(" @ ")
    return (path, rule) if rule else ("data", first)


def _format_rule(error: BaseException, _: type | None) -> str:
    match error:
        case RuleBroken():
            return str(error)
        case KeyError():
            return "required field missing"
        case ForbiddenExtraKeysError():
            return f"unknown field {', '.join(sorted(map(repr, error.extra_fields)))}"
        case _:
            return "does not match the schema"


def _exactly(type_: type, rule: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not type_:
            raise RuleBroken(rule)
        return value

    return structure


def _structure_decimal(value: Any, _: Any) -> Decimal:
    if type(value) is Decimal and value.is_finite():
        return value
    if type(value) is int or (type(value) is str and _NUMBER.fullmatch(value)):
        return Decimal(value)
    raise RuleBroken("must be a Decimal, a whole number or its digits as text; a float is not exact")


def _structure_datetime(value: Any, _: Any) -> datetime:
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise RuleBroken("must be a date and time with its offset, ISO 8601")


def _structure_date(value: Any, _: Any) -> date:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            value = None
    if type(value) is date:
        return value
    raise RuleBroken("must be a date, YYYY-MM-DD")


def _structure_mapping(value: Any, _: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RuleBroken("must be an object")
    return dict(cast("Mapping[str, Any]", value))


def _is_sequence(type_: Any) -> bool:
    return get_origin(type_) in {list, tuple}


def _union_hook(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Make the hook for `X | None`, or for an open enumeration `E | str` with or without `None`."""
    parts = [part for part in get_args(type_) if part is not types.NoneType]
    members = {member.value: member for part in parts if is_enum(part) for member in part}
    is_optional = len(parts) < len(get_args(type_))

    def structure(value: Any, _: Any) -> Any:
        if value is None and is_optional:
            return None
        if members:
            if not isinstance(value, str):
                raise RuleBroken("must be text")
            return members.get(value, value)
        return converter.structure(value, parts[0])

    return structure


def _sequence_hook(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Make the hook for lists, tuples of any length, and rows: tuples of fixed length."""
    parts, make = get_args(type_), list if get_origin(type_) is list else tuple
    is_row = make is tuple and parts[-1] is not Ellipsis
    inner: Any = None if is_row else list_structure_factory(list[parts[0]], converter)  # type: ignore[valid-type]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise RuleBroken("must be a list")
        items = cast("list[Any]", value)
        if not is_row:
            return cast("Any", make(inner(items, type_)))
        if len(items) != len(parts):
            raise RuleBroken(f"must have {len(parts)} members")
        return tuple([converter.structure(item, part) for item, part in zip(items, parts, strict=True)])

    return structure


def _class_hook(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    class_ = attrs.resolve_types(get_origin(type_) or type_)
    overrides = {
        field.name: override(rename=_UNKNOWN) if field.name == "raw" else override(omit=not is_data(field))
        for field in attrs.fields(class_)
    }
    inner = make_dict_structure_fn(type_, converter, _cattrs_forbid_extra_keys=True, **overrides)  # type: ignore[arg-type]

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, class_):
            return value
        return inner(_structure_mapping(value, None), type_)

    return structure


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, _exactly(str, "must be text"))
    converter.register_structure_hook(bool, _exactly(bool, "must be true or false"))
    converter.register_structure_hook(int, _exactly(int, "must be a whole number"))
    converter.register_structure_hook(Decimal, _structure_decimal)
    converter.register_structure_hook(datetime, _structure_datetime)
    converter.register_structure_hook(date, _structure_date)
    converter.register_structure_hook_func(is_mapping, _structure_mapping)
    # The only closed enum. It is a subclass of `str`, so without this hook cattrs would use the one of `str`.
    converter.register_structure_hook(OrderKind, _structure_enum)
    converter.register_structure_hook_factory(is_union, _union_hook)
    converter.register_structure_hook_factory(_is_sequence, _sequence_hook)
    converter.register_structure_hook_factory(is_model, _class_hook)
    return converter


def _structure_enum(value: Any, type_: Any) -> Any:
    try:
        return type_(value)
    except ValueError:
        raise RuleBroken(f"must be one of {', '.join(member.value for member in type_)}") from None
