"""Validation of requests as in Laravel: one error for each invalid field, all in one response."""

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import cast

from .errors import ShopError
from .json_codec import Object

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DATE = re.compile(r"(?:19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}")  # years for which date arithmetic cannot overflow
_DIGITS = re.compile(r"-?[0-9]{1,18}")

FieldError = tuple[str, dict[str, object]]
"""Key of a message, and the values for its placeholders."""


class Validator:
    """Reads fields and collects their errors; `raise_if_invalid()` raises them as one 422.

    Use the values only after `raise_if_invalid()` has returned: until then, those of invalid fields are undefined. An
    absent field is None, or the default of its method.

    Args:
        values: a JSON body, or a query.
        query: whether `values` is a query, in which numbers are strings of digits.
        prefix: prefix of field names in errors, for nested objects.

    Attributes:
        errors: field -> its errors.
    """

    def __init__(self, values: Mapping[str, object], *, query: bool = False, prefix: str = "") -> None:
        self._values = values
        self._query = query
        self.prefix = prefix
        self.errors: dict[str, list[FieldError]] = {}

    def has(self, field: str) -> bool:
        """Return whether the field was sent, also as null."""
        return field in self._values

    def add_error(self, field: str, text: str, **values: object) -> None:
        """Add an error of a field; `text` is a key of `messages`."""
        name = self.prefix + field
        self.errors.setdefault(name, []).append((text, {"field": name, **values}))

    def raise_if_invalid(self) -> None:
        """Raise the 422 if there are errors."""
        if self.errors:
            # Laravel sends all messages of a field; one is enough for a client to tell errors apart.
            raise ShopError(422, "invalid", **{field: found[0] for field, found in self.errors.items()})

    def _get(self, field: str, required: bool) -> object:
        value = self._values.get(field)
        if value is None or (value == "" and (required or self._query)):
            if required:
                self.add_error(field, "required")
            return None
        return value

    def text(
        self,
        field: str,
        *,
        required: bool = False,
        min_length: int = 0,
        max_length: int = 255,
        pattern: re.Pattern[str] | None = None,
    ) -> str | None:
        """Read a string; lengths are in characters."""
        value = self._get(field, required)
        if value is None:
            return None
        if not isinstance(value, str):
            self.add_error(field, "string")
        elif len(value) < min_length:
            self.add_error(field, "min_length", n=min_length)
        elif len(value) > max_length:
            self.add_error(field, "max_length", n=max_length)
        elif pattern is not None and not pattern.fullmatch(value):
            self.add_error(field, "pattern")
        else:
            return value
        return None

    def required_text(self, field: str, *, min_length: int = 0, max_length: int = 255) -> str:
        """Read a required string; return "" if it is absent or invalid."""
        return self.text(field, required=True, min_length=min_length, max_length=max_length) or ""

    def email(self, field: str) -> str | None:
        """Read an e-mail address."""
        value = self.text(field)
        if value and not _EMAIL.fullmatch(value):
            self.add_error(field, "email")
        return value

    def integer(
        self, field: str, *, low: int, high: int | None = None, default: int | None = None, required: bool = False
    ) -> int:
        """Read an integer: a JSON integer (no bool, string or decimal) in a body, digits in a query."""
        value = self._get(field, required)
        fallback = low if default is None else default
        if value is None:
            return fallback
        if self._query and isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self.add_error(field, "integer")
        elif value < low:
            self.add_error(field, "min", n=low)
        elif high is not None and value > high:
            self.add_error(field, "max", n=high)
        else:
            return value
        return fallback

    def choice(self, field: str, choices: tuple[str, ...]) -> str | None:
        """Read one of the choices."""
        value = self.text(field)
        if value is not None and value not in choices:
            self.add_error(field, "choice")
        return value

    def choices(self, field: str, choices: tuple[str, ...]) -> list[str] | None:
        """Read a comma-separated list of choices."""
        return self._comma_separated(field, lambda part: part in choices)

    def integers(self, field: str) -> list[int] | None:
        """Read a comma-separated list of integers."""
        parts = self._comma_separated(field, lambda part: bool(_DIGITS.fullmatch(part)))
        return None if parts is None or self.errors.get(field) else [int(part) for part in parts]

    def _comma_separated(self, field: str, is_valid: Callable[[str], bool]) -> list[str] | None:
        value = self.text(field)
        if value is None:
            return None
        parts = value.split(",")
        if not all(is_valid(part) for part in parts):
            self.add_error(field, "choice")
        return parts

    def boolean(self, field: str) -> bool | None:
        """Read `true` or `false`, or `1` or `0`, from a query."""
        value = self.text(field)
        if value is None:
            return None
        if value not in ("true", "false", "1", "0"):
            self.add_error(field, "boolean")
        return value in ("true", "1")

    def iso_date(self, field: str) -> date | None:
        """Read a date as YYYY-MM-DD."""
        value = self.text(field)
        if value is None:
            return None
        try:
            if _DATE.fullmatch(value):
                return date.fromisoformat(value)
        except ValueError:
            pass
        self.add_error(field, "date")
        return None

    def date_range(self, first: str, last: str) -> tuple[date, date] | None:
        """Read two dates, both or neither, the first not after the last."""
        for field, other in ((first, last), (last, first)):
            if self._get(field, required=False) is not None and self._get(other, required=False) is None:
                self.add_error(other, "with", other=field)
        start, end = self.iso_date(first), self.iso_date(last)
        if start is None or end is None:
            return None
        if end < start:
            self.add_error(last, "before", other=first)
        return start, end

    def nested(self, field: str) -> "Validator":
        """Return a validator of a required object; `merge()` adds its errors to this one."""
        value = self._get(field, required=True)
        if value is not None and not isinstance(value, dict):
            self.add_error(field, "object")
        found = cast("Object", value) if isinstance(value, dict) else {}
        return Validator(found, prefix=f"{self.prefix}{field}.")

    def merge(self, other: "Validator") -> None:
        """Add the errors of a nested object, unless the object itself is absent or not an object."""
        if not self.errors.get(other.prefix.removesuffix(".")):
            self.errors |= other.errors
