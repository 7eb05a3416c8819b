"""Validation of requests, in the manner of Laravel: all complaints at once, by field."""

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import cast

from .errors import ShopError
from .json_codec import Object

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DATE = re.compile(r"(?:19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}")  # no year that arithmetic could leave
_DIGITS = re.compile(r"-?[0-9]{1,18}")

Complaint = tuple[str, dict[str, object]]


class Validator:
    """Reads fields and collects what is wrong with them; `done()` raises the 422.

    The readers return None for a field that is absent or wrong; after `done()` returned, None means absent.

    Args:
        values: a JSON body, or a query.
        query: everything is text then, and numbers are spelt in it.
        prefix: put before field names in complaints, for objects inside objects.

    Attributes:
        complaints: field -> what is wrong with it.
    """

    def __init__(self, values: Mapping[str, object], *, query: bool = False, prefix: str = "") -> None:
        self._values = values
        self._query = query
        self.prefix = prefix
        self.complaints: dict[str, list[Complaint]] = {}

    def has(self, field: str) -> bool:
        """Tell whether the field was sent, null too."""
        return field in self._values

    def complain(self, field: str, text: str, **values: object) -> None:
        """Note a complaint about a field; `text` is a key of `texts`."""
        name = self.prefix + field
        self.complaints.setdefault(name, []).append((text, {"field": name, **values}))

    def done(self) -> None:
        """Raise the 422 if there was any complaint."""
        if self.complaints:
            # Laravel shows several messages per field; one is enough to be told apart.
            raise ShopError(422, "invalid", **{field: found[0] for field, found in self.complaints.items()})

    def _get(self, field: str, required: bool) -> object:
        value = self._values.get(field)
        if value is None or (value == "" and (required or self._query)):
            if required:
                self.complain(field, "required")
            return None
        return value

    def text(
        self,
        field: str,
        *,
        required: bool = False,
        shortest: int = 0,
        longest: int = 255,
        pattern: re.Pattern[str] | None = None,
    ) -> str | None:
        """Read a string, lengths in characters."""
        value = self._get(field, required)
        if value is None:
            return None
        if not isinstance(value, str):
            self.complain(field, "string")
        elif len(value) < shortest:
            self.complain(field, "min_length", n=shortest)
        elif len(value) > longest:
            self.complain(field, "max_length", n=longest)
        elif pattern is not None and not pattern.fullmatch(value):
            self.complain(field, "pattern")
        else:
            return value
        return None

    def need(self, field: str, *, shortest: int = 0, longest: int = 255) -> str:
        """Read a string that must be there; "" stands in until `done()` raises."""
        return self.text(field, required=True, shortest=shortest, longest=longest) or ""

    def email(self, field: str) -> str | None:
        """Read an e-mail address."""
        value = self.text(field)
        if value and not _EMAIL.fullmatch(value):
            self.complain(field, "email")
        return value

    def integer(
        self, field: str, *, least: int, most: int | None = None, default: int | None = None, required: bool = False
    ) -> int:
        """Read an integer: a JSON integer (no bool, no string, no decimal) in a body, digits in a query."""
        value = self._get(field, required)
        fallback = least if default is None else default
        if value is None:
            return fallback
        if self._query and isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self.complain(field, "integer")
        elif value < least:
            self.complain(field, "min", n=least)
        elif most is not None and value > most:
            self.complain(field, "max", n=most)
        else:
            return value
        return fallback

    def choice(self, field: str, choices: tuple[str, ...]) -> str | None:
        """Read one of some words."""
        value = self.text(field)
        if value is not None and value not in choices:
            self.complain(field, "choice")
        return value

    def words(self, field: str, choices: tuple[str, ...]) -> list[str] | None:
        """Read a comma list of some words."""
        return self._listed(field, lambda word: word in choices)

    def numbers(self, field: str) -> list[int] | None:
        """Read a comma list of integers."""
        found = self._listed(field, lambda word: bool(_DIGITS.fullmatch(word)))
        return None if found is None or self.complaints.get(field) else [int(word) for word in found]

    def _listed(self, field: str, fits: Callable[[str], bool]) -> list[str] | None:
        value = self.text(field)
        if value is None:
            return None
        words = value.split(",")
        if not all(fits(word) for word in words):
            self.complain(field, "choice")
        return words

    def boolean(self, field: str) -> bool | None:
        """Read `true` or `false`, also `1` and `0`, from a query."""
        value = self.text(field)
        if value is None:
            return None
        if value not in ("true", "false", "1", "0"):
            self.complain(field, "boolean")
        return value in ("true", "1")

    def day(self, field: str) -> date | None:
        """Read a date as YYYY-MM-DD."""
        value = self.text(field)
        if value is None:
            return None
        try:
            if _DATE.fullmatch(value):
                return date.fromisoformat(value)
        except ValueError:
            pass
        self.complain(field, "date")
        return None

    def days(self, first: str, last: str) -> tuple[date, date] | None:
        """Read a pair of dates: both or neither, in order."""
        for field, other in ((first, last), (last, first)):
            if self._get(field, required=False) is not None and self._get(other, required=False) is None:
                self.complain(other, "with", other=field)
        begin, end = self.day(first), self.day(last)
        if begin is None or end is None:
            return None
        if end < begin:
            self.complain(last, "before", other=first)
        return begin, end

    def inside(self, field: str) -> "Validator":
        """Read an object that must be there; its complaints are added by `merge()`."""
        value = self._get(field, required=True)
        if value is not None and not isinstance(value, dict):
            self.complain(field, "object")
        found = cast("Object", value) if isinstance(value, dict) else {}
        return Validator(found, prefix=f"{self.prefix}{field}.")

    def merge(self, other: "Validator") -> None:
        """Take over the complaints about an object inside, unless the object itself was wrong."""
        if not self.complaints.get(other.prefix.removesuffix(".")):
            self.complaints |= other.complaints
