"""Fills models from JSON data: makes the function that fills each class, and the strict cattrs converter.

Values are not coerced if that could change or guess their meaning: ``1.9`` is not an integer, ``"false"`` is not a
boolean, and a float is not an amount of money. Other forms that PHP and MySQL write are accepted where they cannot be
misread: 0 and 1 for a flag, a date with its midnight, ``[]`` and ``""`` for null, a zero date for null, an object with
numbers as names for an array, and digits in a string for the numbers that `models.json_types` marks. Problems are
reported by path and rule, never by value, because values can be personal data.
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Any, Final, Union, cast, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from minted_connect.models import OrderKind
from minted_connect.models.json_keys import is_in_json, json_name
from minted_connect.models.json_types import accepts_digits, parse_digits

__all__ = [
    "ASSUMED_UTC",
    "RuleBroken",
    "as_rows",
    "describe_problems",
    "is_enum",
    "is_mapping",
    "is_model",
    "is_union",
    "make_converter",
]

_Hook = Callable[..., Any]
"""cattrs calls a hook with a value and its type, this module with the value only."""

ASSUMED_UTC: Final = timezone(timedelta(0), "UTC (assumed)")
"""Time zone of times that the server sent without one. Equal to UTC, and unstructured without a time zone."""

_PLAIN_NUMBER: Final = re.compile(r"-?[0-9]{1,50}(\.[0-9]{1,49})?")
_MIN_LENGTH: Final = len("2026-02-20T12:27:57")
_DAY_LENGTH: Final = len("2026-02-20")
_TIME_ZONE: Final = r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
_MIDNIGHT: Final = re.compile(rf"[T ]00:00:00(\.0{{1,9}})?{_TIME_ZONE}")
_ZERO_DATE: Final = re.compile(rf"(0000-00-00|-0001-11-30)([T ]00:00:00(\.0{{1,9}})?{_TIME_ZONE})?")
"""MySQL's zero date, and the same after Laravel has formatted it."""


class RuleBroken(ValueError):
    """A value breaks a rule; the text is the rule."""


def _structure_str(value: Any, _: Any = None) -> str:
    if type(value) is not str:
        raise RuleBroken("must be a string")
    return value


def _structure_bool(value: Any, _: Any = None) -> bool:
    if type(value) is bool:
        return value
    # A flag is a TINYINT in MySQL.
    if type(value) is int and value in {0, 1}:
        return bool(value)
    raise RuleBroken("must be true or false")


def _structure_int(value: Any, _: Any = None) -> int:
    if type(value) is int:
        return value
    # PHP writes a whole float as 3.0.
    if type(value) is Decimal and value == (whole := int(value)):
        return whole
    raise RuleBroken("must be a whole number")


def _structure_decimal(value: Any, _: Any = None) -> Decimal:
    if type(value) is Decimal:
        return value
    # Laravel casts database decimals to strings ("1777.02").
    if type(value) is int or (type(value) is str and _PLAIN_NUMBER.fullmatch(value)):
        return Decimal(value)
    raise RuleBroken("must be a number")


def _structure_datetime(value: Any, _: Any = None) -> datetime:
    # `fromisoformat` accepts more formats, such as week dates.
    if type(value) is str and len(value) >= _MIN_LENGTH and value[10] in "T " and value[13] == value[16] == ":":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return moment if moment.tzinfo else moment.replace(tzinfo=ASSUMED_UTC)
    raise RuleBroken("must be a date and time")


def _structure_date(value: Any, _: Any = None) -> date:
    if type(value) is str and value[4:5] == value[7:8] == "-":
        day, time = value[:_DAY_LENGTH], value[_DAY_LENGTH:]
        # Laravel formats a date like a time, as its midnight.
        if not time or _MIDNIGHT.fullmatch(time):
            try:
                return date.fromisoformat(day)
            except ValueError:
                pass
    raise RuleBroken("must be a date, YYYY-MM-DD")


def _check_object(value: Any, _: Any = None) -> dict[str, Any]:
    if type(value) is not dict:
        raise RuleBroken("must be an object")
    return cast("dict[str, Any]", value)


def as_rows(value: Any) -> Sequence[Any] | None:
    """Return the members of an array, None for any other value.

    PHP writes an array with gaps, such as a filtered one, as an object whose names are the numbers of its members.
    """
    if type(value) is not dict:
        return cast("Sequence[Any]", value) if type(value) is list else None
    members = cast("dict[str, Any]", value)
    return [*members.values()] if members and all(parse_digits(name) is not None for name in members) else None


def _check_array(value: Any) -> Iterable[Any]:
    rows = as_rows(value)
    if rows is None:
        raise RuleBroken("must be an array")
    return rows


def is_mapping(type_: Any) -> bool:
    """Return whether a type is a `Mapping`."""
    return get_origin(type_) is Mapping


def is_enum(type_: Any) -> bool:
    """Return whether a type is an enumeration."""
    return isinstance(type_, type) and issubclass(type_, enum.Enum)


def is_union(type_: Any) -> bool:
    """Return whether a type is a union, such as `X | None`."""
    return get_origin(type_) in {Union, types.UnionType}


def _is_open_enum(type_: Any) -> bool:
    return is_union(type_) and any(map(is_enum, get_args(type_)))


def _is_tuple(type_: Any) -> bool:
    return get_origin(type_) is tuple and get_args(type_)[-1] is Ellipsis


def _is_row(type_: Any) -> bool:
    return get_origin(type_) is tuple and get_args(type_)[-1] is not Ellipsis


def is_model(type_: Any) -> bool:
    """Return whether a type is an attrs class, or a generic one with its arguments."""
    return attrs.has(get_origin(type_) or type_)


def _structure_order_kind(value: Any, _: Any = None) -> OrderKind:
    try:
        return OrderKind(value)
    except ValueError:
        raise RuleBroken("must be buy, sell or delivery") from None


def _union_hook(type_: Any, converter: Converter) -> _Hook:
    """Make the hook for `X | None`, or for an open enum `E | str` with or without `None`."""
    parts = [part for part in get_args(type_) if part is not types.NoneType]
    members = {member.value: member for part in parts if is_enum(part) for member in part}
    hook = _structure_str if members else converter.get_structure_hook(parts[0])

    def structure_open(value: Any, _: Any = None) -> Any:
        return members.get(_structure_str(value), value)

    required = structure_open if members else hook
    if len(parts) == len(get_args(type_)):
        return required
    nulls: tuple[Any, ...] = ()
    if not members and not {bool, int, Decimal}.intersection(parts):
        nulls = ([],) if str in parts else ([], "")
    is_time = not {date, datetime}.isdisjoint(parts)

    def structure_optional(value: Any, _: Any = None) -> Any:
        if value is None or (not value and value in nulls):
            return None
        if is_time and type(value) is str and _ZERO_DATE.fullmatch(value):
            return None
        return required(value, parts[0])

    return structure_optional


def _field_hook(field: attrs.Attribute[Any], type_: Any, converter: Converter) -> _Hook:
    hook: _Hook = converter.get_structure_hook(type_)
    if not accepts_digits(field):
        return hook
    is_optional = types.NoneType in _parts(type_)

    def structure_digits(value: Any, _: Any = None) -> Any:
        if (number := parse_digits(value)) is not None:
            return number
        return None if is_optional and value == "" else hook(value, type_)

    return structure_digits


def _tuple_hook(type_: Any, converter: Converter) -> _Hook:
    inner: _Hook = converter.get_structure_hook(get_args(type_)[0])

    def structure_tuple(value: Any, _: Any = None) -> Any:
        return tuple(map(inner, _check_array(value)))

    return structure_tuple


def _row_hook(type_: Any, converter: Converter) -> _Hook:
    hooks: list[_Hook] = [converter.get_structure_hook(part) for part in get_args(type_)]

    def structure_row(value: Any, _: Any = None) -> Any:
        row = [*_check_array(value)]
        if len(row) != len(hooks):
            raise RuleBroken(f"must have {len(hooks)} members")
        return tuple([hook(item) for hook, item in zip(hooks, row, strict=True)])

    return structure_row


def _detailed_tuple_hook(type_: Any, converter: Converter) -> _Hook:
    inner = homogenous_tuple_structure_factory(type_, converter)

    def structure_tuple(value: Any, _: Any = None) -> Any:
        return inner(_check_array(value), type_)

    return structure_tuple


# --- classes ---------------------------------------------------------------------------------------------------


def _overrides(type_: Any, converter: Converter) -> dict[str, Any]:
    class_ = attrs.resolve_types(get_origin(type_) or type_)
    return {
        field.name: override(
            rename=json_name(class_, field.name),
            struct_hook=_field_hook(field, field.type, converter) if accepts_digits(field) else None,
        )
        if is_in_json(field)
        else override(omit=True)
        for field in attrs.fields(class_)
    }


def _detailed_class_hook(type_: Any, converter: Converter) -> _Hook:
    inner = make_dict_structure_fn(type_, converter, **_overrides(type_, converter))

    def structure_object(value: Any, _: Any = None) -> Any:
        return inner(_check_object(value), type_)

    return structure_object


def _parts(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if is_union(type_) else (type_,)


def _expression(field: attrs.Attribute[Any], key: str, hook: str) -> str:
    """Return the source that structures one field; a scalar of the right type takes no call."""
    parts = _parts(field.type)
    template = f"{hook}({{0}})"
    if Decimal in parts:
        template = f"v if type({{0}}) is Decimal else (Decimal(v) if v else ZERO) if type(v) is int else {hook}(v)"
    elif not any(map(is_enum, parts)):
        for plain in {str, bool, int}.intersection(parts):
            template = f"v if type({{0}}) is {plain.__name__} else {hook}(v)"
    if field.default is attrs.NOTHING:
        return template.format(f"v := value[{key!r}]")
    default = "None" if field.default is None else f"default_{field.name}"
    return f"{default} if (v := value.get({key!r}, {default})) is {default} else {template.format('v')}"


def _class_hook(type_: Any, converter: Converter) -> _Hook:
    """Generate the function that cattrs would generate, but with positional arguments and inline checks of scalars.

    Most values have the right type already, and calling a hook for each would take as long as parsing the JSON. The
    generated functions take 21 to 38 us for a basket, those of cattrs 39 to 58 us.
    """
    class_ = get_origin(type_) or type_
    scope: dict[str, Any] = {"make": class_, "reject": _check_object, "Decimal": Decimal, "ZERO": Decimal(0)}
    values: list[str] = []
    for field in attrs.fields(attrs.resolve_types(class_)):
        scope[f"default_{field.name}"] = field.default
        if is_in_json(field):
            bound = field.type[get_args(type_)] if getattr(field.type, "__parameters__", ()) else field.type
            scope[f"hook_{field.name}"] = _field_hook(field, bound, converter)
            values.append(_expression(field, json_name(class_, field.name), f"hook_{field.name}"))
        else:
            values.append("value" if field.name == "raw" else f"default_{field.name}")
    # The source holds only field names of this library's classes, and no data.
    source = f"lambda value, _=None: make({', '.join(values)}) if type(value) is dict else reject(value)"
    return cast("_Hook", eval(source, scope))  # noqa: S307


def _class_unstructure_hook(type_: Any, converter: Converter) -> _Hook:
    return make_dict_unstructure_fn(type_, converter, **_overrides(type_, converter))


def _keep_decimal(value: Decimal) -> Decimal:
    return value


def _unstructure_open_enum(value: Any) -> Any:
    return None if value is None else str(value)


def _unstructure_datetime(moment: datetime) -> str:
    if moment.tzname() == ASSUMED_UTC.tzname(None):
        return moment.replace(tzinfo=None).isoformat(sep=" ")
    if moment.tzinfo is UTC:
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return moment.isoformat()


@cache
def make_converter(*, detailed: bool = False) -> Converter:
    """Return the converter, which is built at the first call.

    Args:
        detailed: Return the slow converter, whose exceptions hold the path of each problem.
    """
    converter = Converter(detailed_validation=detailed)
    hooks = {
        str: _structure_str,
        bool: _structure_bool,
        int: _structure_int,
        Decimal: _structure_decimal,
        datetime: _structure_datetime,
        date: _structure_date,
    }
    for type_, hook in hooks.items():
        converter.register_structure_hook(type_, hook)
    converter.register_structure_hook_func(is_mapping, _check_object)
    # The only closed enum. It is a subclass of `str`, so without this hook cattrs would use the one of `str`.
    converter.register_structure_hook(OrderKind, _structure_order_kind)
    converter.register_structure_hook_factory(is_union, _union_hook)
    converter.register_structure_hook_factory(_is_row, _row_hook)
    converter.register_structure_hook_factory(_is_tuple, _detailed_tuple_hook if detailed else _tuple_hook)
    converter.register_structure_hook_factory(is_model, _detailed_class_hook if detailed else _class_hook)
    converter.register_unstructure_hook(Decimal, _keep_decimal)
    converter.register_unstructure_hook(datetime, _unstructure_datetime)
    converter.register_unstructure_hook(date, date.isoformat)
    converter.register_unstructure_hook_func(_is_open_enum, _unstructure_open_enum)
    converter.register_unstructure_hook_factory(is_model, _class_unstructure_hook)
    return converter


def describe_problems(error: BaseException, path: str) -> Iterator[str]:
    """Yield each problem of an exception of the detailed converter: `data.items[0].sku: required field missing`."""
    if isinstance(error, ClassValidationError):
        named, unnamed = error.group_exceptions()
        children = [(cause, f"{path}.{json_name(error.cl, note.name)}") for cause, note in named]
    elif isinstance(error, IterableValidationError):
        indexed, unnamed = error.group_exceptions()
        children = [(cause, f"{path}[{note.index}]") for cause, note in indexed]
    else:
        # The text of a foreign exception can quote the value.
        rule = str(error) if isinstance(error, RuleBroken) else "does not match the schema"
        yield f"{path}: {'required field missing' if isinstance(error, KeyError) else rule}"
        return
    for cause, place in [*children, *((cause, path) for cause in unnamed)]:
        yield from describe_problems(cause, place)
