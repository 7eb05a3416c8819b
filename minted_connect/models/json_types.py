"""Values that PHP and MySQL write with several JSON types: numbers as strings, and ids as numbers.

A model accepts a string of digits only in a field whose metadata marks it: ids and page counts are marked; numbers of
pieces and the seconds of a price lock are not.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, cast

import attrs

__all__ = [
    "DIGITS",
    "CustomerMatch",
    "accepts_digits",
    "compare_customer",
    "customer_id_of",
    "member_of",
    "parse_digits",
    "whole_number",
]

_METADATA_KEY: Final = "minted_connect.accepts_digits"
_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_WITH_LEADING_ZEROS: Final = re.compile(r"0*([0-9]+)")
_NUMERIC: Final = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
"""Text that PHP writes as a number if JSON_NUMERIC_CHECK is set."""

DIGITS: Final[Mapping[str, bool]] = {_METADATA_KEY: True}
"""Metadata of a number that may also be a string of its digits (`"15"`); `""` is null if the field is optional."""


def accepts_digits(field: attrs.Attribute[Any]) -> bool:
    """Return whether a field has the metadata `DIGITS`."""
    return bool(field.metadata.get(_METADATA_KEY))


def parse_digits(value: object) -> int | None:
    """Return the number whose digits are in a string; None for another value, or if there are leading zeros."""
    return int(value) if type(value) is str and _DIGITS.fullmatch(value) else None


def whole_number(value: object) -> int | None:
    """Return a whole number that is written as a number or as a string of its digits; None for another value."""
    if type(value) is Decimal and value.is_finite() and value == (whole := int(value)):
        return whole
    return value if type(value) is int else parse_digits(value)


class CustomerMatch(enum.Enum):
    """The result of comparing the customer of a JSON object with an external customer id."""

    SAME = enum.auto()
    UNKNOWN = enum.auto()
    """The object has no readable customer id, or one that may have lost leading zeros or digits of the expected id."""
    OTHER = enum.auto()


def customer_id_of(raw: object) -> str | None:
    """Return `customer.external_id` of a JSON object, a whole number as text; None if it cannot be read."""
    value = _external_id(raw)
    if isinstance(value, str):
        return value or None
    number = whole_number(value)
    return None if number is None else str(number)


def compare_customer(raw: object, expected: str) -> CustomerMatch:
    """Compare `customer.external_id` of a JSON object with a customer id."""
    found = customer_id_of(raw)
    if found is None:
        return CustomerMatch.UNKNOWN
    if found == expected:
        return CustomerMatch.SAME
    if isinstance(_external_id(raw), str):
        digits, expected_digits = _WITH_LEADING_ZEROS.fullmatch(found), _WITH_LEADING_ZEROS.fullmatch(expected)
        may_be_same = digits is not None and expected_digits is not None and digits[1] == expected_digits[1]
    else:
        # PHP and JavaScript round a number with more than 15 digits.
        may_be_same = _NUMERIC.fullmatch(expected) is not None and float(expected) == float(found)
    return CustomerMatch.UNKNOWN if may_be_same else CustomerMatch.OTHER


def _external_id(raw: object) -> object:
    return member_of(member_of(raw, "customer"), "external_id")


def member_of(raw: object, name: str) -> object:
    """Return a member of a JSON object; None if the object does not have it, or if `raw` is no object."""
    return cast("Mapping[str, Any]", raw).get(name) if isinstance(raw, Mapping) else None
