"""Input rules: each returns the value as it is sent, or raises InvalidInput naming the field and the rule.

Rules that follow from meaning are always checked; lengths are the vendor's sister families' and can be switched off
(`Options.limits`), so each takes its length as an optional argument.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import date, datetime
from typing import Any, Final

from minted_connect.config import is_seconds
from minted_connect.errors import InvalidInput

__all__ = [
    "as_list",
    "boolean",
    "comma_separated",
    "customer_id",
    "date_range",
    "instance",
    "integer",
    "iso_date",
    "new_customer_id",
    "one_of",
    "seconds",
    "text",
    "token",
]

_MOST: Final = 2**63 - 1
"""No id and no amount is larger: it is what a database holds."""
_EXTERNAL_ID: Final = re.compile(r"[A-Za-z0-9_-]+")


def text(field: str, value: Any, length: tuple[int, int] | None = None, *, empty: bool = False) -> str:
    """Check a printable string, of `length` characters (least, most) if given; `empty` lets "" pass."""
    if not isinstance(value, str):
        raise InvalidInput.of(field, f"must be a string, not {type(value).__name__}")
    if value == "" and empty:
        return value
    if not value or value.isspace():
        raise InvalidInput.of(field, "must not be empty")
    if not value.isprintable():  # nor is half a character, a surrogate without the other
        raise InvalidInput.of(field, "must be printable, without line breaks")
    if length is not None and not length[0] <= len(value) <= length[1]:
        raise InvalidInput.of(field, _span(*length))
    return value


def _span(least: int, most: int) -> str:
    return f"must have exactly {least} characters" if least == most else f"must have {least} to {most} characters"


def customer_id(value: Any, length: tuple[int, int] | None) -> str:
    """Check the partner's id of a customer that exists."""
    return text("customer_id", value, length)


def new_customer_id(value: Any, length: tuple[int, int] | None) -> str:
    """Check the partner's id of a customer to be created: letters, digits, hyphen, underscore (documented)."""
    checked = text("customer_id", value, length)
    if length is not None and not _EXTERNAL_ID.fullmatch(checked):
        raise InvalidInput.of("customer_id", "must hold only letters A-Z, digits, hyphens and underscores")
    return checked


def token(value: Any, length: tuple[int, int] | None) -> str:
    """Check a cart token."""
    return text("cart_token", value, length)


def integer(field: str, value: Any, least: int, most: int | None = None) -> int:
    """Check an int (not a bool, not a float) from `least` to `most`, or to the largest of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput.of(field, f"must be a whole number (int), not {type(value).__name__}")
    if not least <= value <= (_MOST if most is None else most):
        shown = most if most is not None or value < least else _MOST
        raise InvalidInput.of(field, f"must be from {least}" + ("" if shown is None else f" to {shown}"))
    return value


def seconds(field: str, value: Any) -> float:
    """Check a number of seconds above 0, and finite."""
    if not is_seconds(value):
        raise InvalidInput.of(field, "must be seconds above 0, and finite")
    return float(value)


def instance(field: str, value: Any, kind: type) -> None:
    """Check that a value is what another call of this library gave."""
    if not isinstance(value, kind):
        raise InvalidInput.of(field, f"give the {kind.__name__}, not {type(value).__name__}")


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
    """Check a range of days, given whole or not at all, and return it as query parameters."""
    if start is None and end is None:
        return []
    if start is None or end is None:
        raise InvalidInput.of("end" if end is None else "start", "start and end go together")
    query = [("startDate", iso_date("start", start)), ("endDate", iso_date("end", end))]
    if start > end:
        raise InvalidInput.of("end", "must not be before start")
    return query


def one_of(field: str, value: Any, allowed: Collection[str]) -> str:
    """Check a string out of a closed list."""
    checked = text(field, value)
    if checked not in allowed:
        raise InvalidInput.of(field, f"must be one of {', '.join(sorted(allowed))}")
    return str(checked)


def as_list(field: str, value: Any) -> list[Any]:
    """Return one value or the values of a collection as a list, not empty; a string is one value, and so are bytes."""
    if isinstance(value, str | bytes | bytearray):
        return [value]
    try:
        values = list(value)
    except TypeError:  # no collection: what looks at each value says what is wrong with it
        return [value]
    if not values:
        raise InvalidInput.of(field, "must name at least one")
    return values


def comma_separated(field: str, value: Any) -> str:
    """Check one string or several, and return them as the comma list the vendor's queries take."""
    parts = as_list(field, value)
    for part in parts:
        if "," in text(field, part):
            raise InvalidInput.of(field, "must not hold commas; give several as a list")
    return ",".join(parts)
