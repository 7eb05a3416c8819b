"""How JSON data becomes models and models become JSON data: the strict cattrs converter.

Nothing is coerced: ``1.9`` is no integer, ``"false"`` is not true, a float is no money. What is wrong is said by
place and rule, never by value: values can be personal data.
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Any, Final, Union, cast, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from minted_connect.models import Basket, Holding, OrderKind, Page, PriceFix

__all__ = ["ASSUMED_UTC", "explain", "make_converter", "wire_name"]

_Hook = Callable[..., Any]
"""Called by cattrs with a value and its type, by this module with the value alone."""

ASSUMED_UTC: Final = timezone(timedelta(0), "UTC (assumed)")
"""Zone of times that were sent without one; equal to UTC, and written back without a zone."""

_PLAIN_NUMBER: Final = re.compile(r"-?[0-9]{1,50}(\.[0-9]{1,49})?")
_SECONDS: Final = len("2026-02-20T12:27:57")


class _Wrong(ValueError):
    """A value breaks a rule; the text is the rule."""


def _text(value: Any, _: Any = None) -> str:
    if type(value) is not str:
        raise _Wrong("must be a string")
    return value


def _flag(value: Any, _: Any = None) -> bool:
    if type(value) is not bool:
        raise _Wrong("must be true or false")
    return value


def _integer(value: Any, _: Any = None) -> int:
    if type(value) is int:
        return value
    # PHP writes a whole float as 3.0.
    if type(value) is Decimal and value == (whole := int(value)):
        return whole
    raise _Wrong("must be a whole number")


def _decimal(value: Any, _: Any = None) -> Decimal:
    if type(value) is Decimal:
        return value
    # Laravel casts database decimals to strings ("1777.02").
    if type(value) is int or (type(value) is str and _PLAIN_NUMBER.fullmatch(value)):
        return Decimal(value)
    raise _Wrong("must be a number")


def _time(value: Any, _: Any = None) -> datetime:
    # Refuses the week dates and the like that `fromisoformat` knows too.
    if type(value) is str and len(value) >= _SECONDS and value[10] in "T " and value[13] == value[16] == ":":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return moment if moment.tzinfo else moment.replace(tzinfo=ASSUMED_UTC)
    raise _Wrong("must be a date and time")


def _day(value: Any, _: Any = None) -> date:
    if type(value) is str and value[4:5] == value[7:8] == "-":
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise _Wrong("must be a date, YYYY-MM-DD")


def _mapping(value: Any, _: Any = None) -> dict[str, Any]:
    if type(value) is not dict:
        raise _Wrong("must be an object")
    return cast("dict[str, Any]", value)


def _array(value: Any) -> Iterable[Any]:
    if type(value) is not list:
        raise _Wrong("must be an array")
    return cast("Iterable[Any]", value)


def _is_mapping(type_: Any) -> bool:
    return get_origin(type_) is Mapping


def _is_enum(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, enum.Enum)


def _is_union(type_: Any) -> bool:
    return get_origin(type_) in {Union, types.UnionType}


def _is_open_enum(type_: Any) -> bool:
    return _is_union(type_) and any(map(_is_enum, get_args(type_)))


def _is_tuple(type_: Any) -> bool:
    return get_origin(type_) is tuple and get_args(type_)[-1] is Ellipsis


def _is_row(type_: Any) -> bool:
    return get_origin(type_) is tuple and get_args(type_)[-1] is not Ellipsis


def _is_model(type_: Any) -> bool:
    return attrs.has(get_origin(type_) or type_)


def _kind(value: Any, _: Any = None) -> OrderKind:
    try:
        return OrderKind(value)
    except ValueError:
        raise _Wrong("must be buy, sell or delivery") from None


def _union_hook(type_: Any, converter: Converter) -> _Hook:
    """Structure `X | None` and the open enums `E | str`, with or without `None`."""
    parts = [part for part in get_args(type_) if part is not types.NoneType]
    words = {member.value: member for part in parts if _is_enum(part) for member in part}
    hook = _text if words else converter.get_structure_hook(parts[0])

    def structure_open(value: Any, _: Any = None) -> Any:
        return words.get(_text(value), value)

    known = structure_open if words else hook
    if len(parts) == len(get_args(type_)):
        return known

    def structure_optional(value: Any, _: Any = None) -> Any:
        return None if value is None else known(value, parts[0])

    return structure_optional


def _tuple_hook(type_: Any, converter: Converter) -> _Hook:
    inner: _Hook = converter.get_structure_hook(get_args(type_)[0])

    def structure_tuple(value: Any, _: Any = None) -> Any:
        return tuple(map(inner, _array(value)))

    return structure_tuple


def _row_hook(type_: Any, converter: Converter) -> _Hook:
    hooks: list[_Hook] = [converter.get_structure_hook(part) for part in get_args(type_)]

    def structure_row(value: Any, _: Any = None) -> Any:
        row = [*_array(value)]
        if len(row) != len(hooks):
            raise _Wrong(f"must have {len(hooks)} members")
        return tuple([hook(item) for hook, item in zip(hooks, row, strict=True)])

    return structure_row


def _explained_tuple_hook(type_: Any, converter: Converter) -> _Hook:
    inner = homogenous_tuple_structure_factory(type_, converter)

    def structure_tuple(value: Any, _: Any = None) -> Any:
        return inner(_array(value), type_)

    return structure_tuple


# --- classes ---------------------------------------------------------------------------------------------------


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join([word.capitalize() for word in rest])


_RENAMED: Final[Mapping[Any, Mapping[str, str]]] = {
    Basket: {"price_fix": "pricefix"},
    PriceFix: {"next_update": "nextUpdate"},
    Holding: {field.name: _camel(field.name) for field in attrs.fields(Holding)},
    Page: {"items": "data"},
}
"""Where the wire spells a name differently."""


def wire_name(class_: Any, name: str) -> str:
    """Return how the vendor spells a field."""
    return _RENAMED.get(get_origin(class_) or class_, {}).get(name, name)


def _overrides(class_: Any) -> dict[str, Any]:
    return {
        field.name: override(rename=wire_name(class_, field.name)) if field.eq else override(omit=True)
        for field in attrs.fields(get_origin(class_) or class_)
    }


def _explained_class_hook(type_: Any, converter: Converter) -> _Hook:
    inner = make_dict_structure_fn(type_, converter, **_overrides(type_))

    def structure_object(value: Any, _: Any = None) -> Any:
        return inner(_mapping(value), type_)

    return structure_object


def _parts(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if _is_union(type_) else (type_,)


def _expression(field: attrs.Attribute[Any], key: str, hook: str) -> str:
    """Write how the value of one field is made; a plain value of the right type takes no call."""
    parts = _parts(field.type)
    made = f"{hook}({{0}})"
    if Decimal in parts:
        made = f"v if type({{0}}) is Decimal else (Decimal(v) if v else ZERO) if type(v) is int else {hook}(v)"
    elif not any(map(_is_enum, parts)):
        for plain in {str, bool, int}.intersection(parts):
            made = f"v if type({{0}}) is {plain.__name__} else {hook}(v)"
    if field.default is attrs.NOTHING:
        return made.format(f"v := value[{key!r}]")
    default = "None" if field.default is None else f"default_{field.name}"
    return f"{default} if (v := value.get({key!r}, {default})) is {default} else {made.format('v')}"


def _class_hook(type_: Any, converter: Converter) -> _Hook:
    """Write the function cattrs would write, but positional and with the checks of plain values in line.

    Most values arrive with the right type: calling a hook for each takes as long as parsing the bytes.
    """
    class_ = get_origin(type_) or type_
    scope: dict[str, Any] = {"make": class_, "refuse": _mapping, "Decimal": Decimal, "ZERO": Decimal(0)}
    values: list[str] = []
    for field in attrs.fields(attrs.resolve_types(class_)):
        scope[f"default_{field.name}"] = field.default
        if field.eq:
            bound = field.type[get_args(type_)] if getattr(field.type, "__parameters__", ()) else field.type
            scope[f"hook_{field.name}"] = converter.get_structure_hook(bound)
            values.append(_expression(field, wire_name(class_, field.name), f"hook_{field.name}"))
        else:
            values.append("value" if field.name == "raw" else f"default_{field.name}")
    # Source made of the names in this library's own classes.
    made = f"lambda value, _=None: make({', '.join(values)}) if type(value) is dict else refuse(value)"
    return cast("_Hook", eval(made, scope))  # noqa: S307


def _unstructure_hook(type_: Any, converter: Converter) -> _Hook:
    return make_dict_unstructure_fn(type_, converter, **_overrides(type_))


def _same(value: Decimal) -> Decimal:
    return value


def _written_word(value: Any) -> Any:
    return None if value is None else str(value)


def _written_time(moment: datetime) -> str:
    if moment.tzname() == ASSUMED_UTC.tzname(None):
        return moment.replace(tzinfo=None).isoformat(sep=" ")
    if moment.tzinfo is UTC:
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return moment.isoformat()


@cache
def make_converter(*, detailed: bool = False) -> Converter:
    """Return the one converter: the quick one, or the slow one that can say what is wrong where.

    It is made at the first call, not at import.
    """
    made = Converter(detailed_validation=detailed)
    hooks = {str: _text, bool: _flag, int: _integer, Decimal: _decimal, datetime: _time, date: _day}
    for type_, hook in hooks.items():
        made.register_structure_hook(type_, hook)
    made.register_structure_hook_func(_is_mapping, _mapping)
    # The only closed enum; by itself cattrs would take it for the `str` it is too.
    made.register_structure_hook(OrderKind, _kind)
    made.register_structure_hook_factory(_is_union, _union_hook)
    made.register_structure_hook_factory(_is_row, _row_hook)
    made.register_structure_hook_factory(_is_tuple, _explained_tuple_hook if detailed else _tuple_hook)
    made.register_structure_hook_factory(_is_model, _explained_class_hook if detailed else _class_hook)
    made.register_unstructure_hook(Decimal, _same)
    made.register_unstructure_hook(datetime, _written_time)
    made.register_unstructure_hook(date, date.isoformat)
    made.register_unstructure_hook_func(_is_open_enum, _written_word)
    made.register_unstructure_hook_factory(_is_model, _unstructure_hook)
    return made


def explain(error: BaseException, path: str) -> Iterator[str]:
    """Yield what a failure of the detailed converter says: `data.items[0].sku: required field missing`."""
    if isinstance(error, ClassValidationError):
        named, unnamed = error.group_exceptions()
        children = [(cause, f"{path}.{wire_name(error.cl, note.name)}") for cause, note in named]
    elif isinstance(error, IterableValidationError):
        indexed, unnamed = error.group_exceptions()
        children = [(cause, f"{path}[{note.index}]") for cause, note in indexed]
    else:
        # The text of a foreign exception can quote the value.
        rule = str(error) if isinstance(error, _Wrong) else "not of the promised shape"
        yield f"{path}: {'required field missing' if isinstance(error, KeyError) else rule}"
        return
    for cause, place in [*children, *((cause, path) for cause in unnamed)]:
        yield from explain(cause, place)
