"""Validation of settings and of the arguments of operations, one value at a time.

Settings that cannot work raise ConfigurationError, arguments that cannot be sent raise InvalidInput. Both name the
field and the rule, and neither shows the value. `completion.preflight` has the rules for baskets, totals and addresses.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from typing import Any, Final, cast

import attrs

from minted_connect.errors import ConfigurationError, InvalidInput
from minted_connect.request_info import AMBIGUOUS_STATUSES

__all__ = [
    "CURRENCY",
    "HEADER_NAME",
    "MAX_REFERENCE",
    "Validator",
    "as_list",
    "boolean",
    "check_header",
    "check_type",
    "comma_separated",
    "currency",
    "customer_id",
    "date_range",
    "instance",
    "integer",
    "is_seconds",
    "iso_date",
    "one_of",
    "seconds",
    "seconds_or_zero",
    "text",
    "token",
    "validate_account_name",
    "validate_app_info",
    "validate_at_least",
    "validate_callable",
    "validate_choice",
    "validate_clock",
    "validate_header_name",
    "validate_header_value",
    "validate_paths",
    "validate_refusals",
    "validate_seconds",
    "validate_seconds_or_zero",
    "validate_type",
]

_INT64_MAX: Final = 2**63 - 1
"""Upper bound of ids and amounts: the largest integer of a database column."""
_CART_TOKEN_LENGTH: Final = 32
_FINAL_STATUSES: Final = frozenset(range(400, 500)) - AMBIGUOUS_STATUSES - {401}
"""Statuses that may be configured as refusals. A 401 is judged by its challenge."""
CURRENCY: Final = re.compile("[A-Z]{3}")
"""The code of a currency."""
_PRODUCT_PARTS: Final = 2
_MAX_PRODUCT: Final = 64
MAX_REFERENCE: Final = 200
"""Maximum number of characters of a reference."""
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""The name of a header: a token (RFC 9110 section 5.6.2)."""

Validator = Callable[[object, "attrs.Attribute[Any]", Any], None]
"""A validator of an attrs field."""


def is_seconds(value: object) -> bool:
    """Return whether this is a finite number of seconds above 0."""
    # Compared with the largest float instead of infinity, because an int may exceed every float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


# Settings: these raise ConfigurationError.


def check_type(name: str, value: object, *kinds: type, optional: bool = False) -> None:
    """Raise ConfigurationError unless `value` is an instance of one of `kinds`, or None if `optional`."""
    if not isinstance(value, kinds) and not (optional and value is None):
        allowed = [kind.__name__ for kind in kinds] + ["None"] * optional
        raise ConfigurationError(f"{name}: must be {' or '.join(allowed)}, not {type(value).__name__}")


def check_header(name: str, value: str) -> str:
    """Return `value` if it is a safe header value; raise ConfigurationError if it could inject another header."""
    check_type(name, value, str)
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise ConfigurationError(f"{name}: must be printable ASCII, without line breaks, and without spaces around it")
    return value


def _field_name(instance: object, attribute: attrs.Attribute[Any]) -> str:
    return f"{type(instance).__name__}.{attribute.name}"


def validate_type(*kinds: type, optional: bool = False) -> Validator:
    """Return a validator that accepts instances of `kinds`, and None if `optional`."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_type(_field_name(instance, attribute), value, *kinds, optional=optional)

    return validate


def validate_choice(*allowed: str) -> Validator:
    """Return a validator that accepts the strings `allowed`."""
    *most, last = [repr(choice) for choice in allowed]
    rule = f"must be {', '.join(most)} or {last}"

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in allowed:
            raise ConfigurationError(f"{_field_name(instance, attribute)}: {rule}")

    return validate


def validate_at_least(minimum: int) -> Validator:
    """Return a validator that accepts integers from `minimum` to the largest of 64 bits."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _INT64_MAX:
            name = _field_name(instance, attribute)
            raise ConfigurationError(f"{name}: must be a whole number from {minimum}, below 2**63")

    return validate


def validate_seconds(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a finite number of seconds above 0."""
    if not is_seconds(value):
        raise ConfigurationError(f"{_field_name(instance, attribute)}: must be seconds above 0, and finite")


def validate_seconds_or_zero(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a finite number of seconds from 0, and None if that is the default of the field."""
    if value is None and attribute.default is None:
        return
    if type(value) not in {int, float} or value != 0:
        validate_seconds(instance, attribute, value)


def validate_callable(signature: str, *, optional: bool = False) -> Validator:
    """Return a validator that accepts callables, and None if `optional`; `signature` describes them in the error."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not callable(value) and not (optional and value is None):
            suffix = ", or None" if optional else ""
            raise ConfigurationError(f"{_field_name(instance, attribute)}: must be a function that {signature}{suffix}")

    return validate


def validate_clock(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept an object with the methods of `Clock`."""
    methods = ("monotonic", "wall", "sleep")
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        name = _field_name(instance, attribute)
        raise ConfigurationError(f"{name}: must have the methods of Clock: monotonic, wall and sleep")


def validate_account_name(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a printable string without surrounding spaces, or None."""
    name = _field_name(instance, attribute)
    check_type(name, value, str, optional=True)
    if value is not None and (not value.isprintable() or not value or value != value.strip()):
        raise ConfigurationError(f"{name}: must be printable, not empty, and without spaces around it, or None")


def validate_header_value(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a safe header value, or None."""
    if value is not None:
        check_header(_field_name(instance, attribute), value)


def validate_app_info(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept name and version of an application (RFC 9110 section 10.1.5), or None."""
    if value is None:
        return
    name = _field_name(instance, attribute)
    parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
    if len(parts) != _PRODUCT_PARTS or not all(isinstance(part, str) for part in parts):
        raise ConfigurationError(f"{name}: must be a tuple of two strings, name and version, or None")
    for part, text in zip(("name", "version"), cast("tuple[str, str]", parts), strict=True):
        if not HEADER_NAME.fullmatch(text) or len(text) > _MAX_PRODUCT:
            rule = f"must be a token of 1 to {_MAX_PRODUCT} characters: ASCII letters, digits and !#$%&'*+-.^_`|~"
            raise ConfigurationError(f"{name}: the {part} {rule}")
    if getattr(instance, "user_agent", None) is not None:
        raise ConfigurationError(f"{name}: must be None if user_agent is given, which replaces the whole header")


def validate_header_name(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept the name of a header, or None."""
    if value is not None and not (isinstance(value, str) and HEADER_NAME.fullmatch(value)):
        name = _field_name(instance, attribute)
        raise ConfigurationError(f"{name}: must be the name of a header (RFC 9110 section 5.1)")


def validate_refusals(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a frozenset of 4xx statuses with which a server can refuse a request for good."""
    name = _field_name(instance, attribute)
    if not isinstance(value, frozenset):
        raise ConfigurationError(f"{name}: must be a frozenset of HTTP statuses")
    for status in cast("frozenset[object]", value):
        if not isinstance(status, int) or isinstance(status, bool) or status not in _FINAL_STATUSES:
            raise ConfigurationError(f"{name}: must contain statuses from 400 to 499 only, except 401, 408 and 425")


def validate_paths(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a mapping from names of operations to paths; the names are checked when the client is built."""
    name = _field_name(instance, attribute)
    check_type(name, value, Mapping)
    if not all(isinstance(item, str) for pair in value.items() for item in pair):
        raise ConfigurationError(f"{name}: must contain strings only: names of operations and their paths")


# Arguments of operations: these return the value as it is sent, or raise InvalidInput.


def text(field: str, value: Any, *, empty: bool = False) -> str:
    """Check a printable string; `empty` also accepts an empty one."""
    if not isinstance(value, str):
        raise InvalidInput.of(field, f"must be a string, not {type(value).__name__}")
    if value == "" and empty:
        return value
    if not value or value.isspace():
        raise InvalidInput.of(field, "must not be empty")
    if not value.isprintable():  # lone surrogates are not printable either
        raise InvalidInput.of(field, "must be printable, without line breaks")
    return value


def customer_id(value: Any) -> str:
    """Check the partner's id of a customer: printable and not empty."""
    return text("customer_id", value)


def token(value: Any) -> str:
    """Check a cart token: 32 characters, as in all examples of the vendor."""
    checked = text("cart_token", value)
    if len(checked) != _CART_TOKEN_LENGTH:
        raise InvalidInput.of("cart_token", f"must have exactly {_CART_TOKEN_LENGTH} characters")
    return checked


def integer(field: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Check an int (not a bool, not a float) from `minimum` to `maximum`, or to the largest of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput.of(field, f"must be a whole number (int), not {type(value).__name__}")
    if not minimum <= value <= (_INT64_MAX if maximum is None else maximum):
        shown = maximum if maximum is not None or value < minimum else _INT64_MAX
        raise InvalidInput.of(field, f"must be from {minimum}" + ("" if shown is None else f" to {shown}"))
    return value


def seconds(field: str, value: Any) -> float:
    """Check a finite number of seconds above 0."""
    if not is_seconds(value):
        raise InvalidInput.of(field, "must be seconds above 0, and finite")
    return float(value)


def seconds_or_zero(field: str, value: Any) -> float:
    """Check a finite number of seconds from 0."""
    if isinstance(value, bool) or not (value == 0 or is_seconds(value)):
        raise InvalidInput.of(field, "must be seconds from 0, and finite")
    return float(value)


def currency(field: str, value: Any) -> str:
    """Check the code of a currency."""
    if not CURRENCY.fullmatch(text(field, value)):
        raise InvalidInput.of(field, "must be a code of three capital letters, such as AED")
    return str(value)


def instance(field: str, value: Any, kind: type) -> None:
    """Check that `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        raise InvalidInput.of(field, f"must be {kind.__name__}, not {type(value).__name__}")


def boolean(field: str, value: Any) -> str:
    """Check a bool, and return it as the vendor's queries spell it."""
    if not isinstance(value, bool):
        raise InvalidInput.of(field, f"must be True or False, not {type(value).__name__}")
    return "true" if value else "false"


def iso_date(field: str, value: Any) -> str:
    """Check a date, and return it as YYYY-MM-DD."""
    if not isinstance(value, date) or isinstance(value, datetime):
        raise InvalidInput.of(field, f"must be a datetime.date, not {type(value).__name__}")
    return value.isoformat()


def date_range(start: date | None, end: date | None) -> list[tuple[str, str]]:
    """Check a range of days, and return it as query parameters. Both ends are given, or neither is."""
    if start is None and end is None:
        return []
    if start is None or end is None:
        raise InvalidInput.of("end" if end is None else "start", "start and end go together")
    query = [("startDate", iso_date("start", start)), ("endDate", iso_date("end", end))]
    if start > end:
        raise InvalidInput.of("end", "must not be before start")
    return query


def one_of(field: str, value: Any, allowed: Collection[str]) -> str:
    """Check a string against the list of allowed ones."""
    checked = text(field, value)
    if checked not in allowed:
        raise InvalidInput.of(field, f"must be one of {', '.join(sorted(allowed))}")
    return str(checked)


def as_list(field: str, value: Any) -> list[Any]:
    """Return one value or a collection of values as a list that is not empty. A string or bytes is one value."""
    if isinstance(value, str | bytes | bytearray):
        return [value]
    try:
        values = list(value)
    except TypeError:  # not a collection: the check of the single values names the rule that it breaks
        return [value]
    if not values:
        raise InvalidInput.of(field, "must contain at least one value")
    return values


def comma_separated(field: str, value: Any) -> str:
    """Check one string or several, and return them as the comma list that the vendor's queries take."""
    parts = as_list(field, value)
    for part in parts:
        if "," in text(field, part):
            raise InvalidInput.of(field, "must not contain commas; pass several values as a list")
    return ",".join(parts)
