"""The arguments of faults: types and bounds, read from the signature of the function that implements the fault."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, Union, cast, get_args, get_origin, get_type_hints

from attrs import field, frozen

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_MAX_DEPTH = 50
_MAX_EXPONENT = 400
_MAX_INTEGER = 10**400
_MAX_LENGTH = 1_000_000


class Rule(Protocol):
    """A type that an argument may have, with its bounds."""

    @property
    def text(self) -> str:
        """The rule in words, to follow "must be"."""
        ...

    def has_type(self, value: object) -> bool:
        """Return whether the type fits; `convert` checks the bounds."""
        ...

    def convert(self, value: Any) -> object:
        """Return the value, converted.

        Raises:
            ValueError: if the value is out of bounds.
        """
        ...


@frozen
class Nothing:
    """`None`."""

    text: str = "None"

    def has_type(self, value: object) -> bool:
        """Return whether it is None."""
        return value is None

    def convert(self, value: Any) -> object:
        """Return the value."""
        return value


@frozen
class Flag:
    """`True` or `False`."""

    text: str = "True or False"

    def has_type(self, value: object) -> bool:
        """Return whether it is a bool; 0 and 1 are not."""
        return isinstance(value, bool)

    def convert(self, value: Any) -> object:
        """Return the value."""
        return value


@frozen
class Number:
    """A number from `low` to `high`; with `is_whole` an integer."""

    low: float
    high: float
    is_whole: bool = False

    @property
    def text(self) -> str:
        """The type and the bounds."""
        return f"{'an integer' if self.is_whole else 'a number'} from {self.low:,} to {self.high:,}"

    def has_type(self, value: object) -> bool:
        """Return whether it is a number; a bool is not."""
        return not isinstance(value, bool) and isinstance(value, int if self.is_whole else int | float | Decimal)

    def convert(self, value: Any) -> object:
        """Return an int or a float."""
        # Compare before converting: float() of a huge int raises OverflowError. NaN fails the comparison.
        if isinstance(value, Decimal) and not value.is_finite():
            raise ValueError("not finite")
        if not self.low <= value <= self.high:
            raise ValueError("out of bounds")
        return value if self.is_whole else float(value)


@frozen
class Choice:
    """One of several values."""

    values: tuple[object, ...]

    @property
    def text(self) -> str:
        """The values."""
        return " or ".join(repr(value) for value in self.values)

    def has_type(self, value: object) -> bool:
        """Return whether it has the type of one of the values."""
        return type(value) in {type(one) for one in self.values}

    def convert(self, value: Any) -> object:
        """Return the value."""
        if value not in self.values:
            raise ValueError("not one of them")
        return value


@frozen
class Text:
    """A string of limited length."""

    max_length: int = _MAX_LENGTH
    min_length: int = 0

    @property
    def text(self) -> str:
        """The length."""
        return f"a string of {self.min_length:,} to {self.max_length:,} characters"

    def has_type(self, value: object) -> bool:
        """Return whether it is a string."""
        return isinstance(value, str)

    def convert(self, value: Any) -> object:
        """Return the value."""
        if not self.min_length <= len(value) <= self.max_length:
            raise ValueError("too long or too short")
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            raise ValueError("cannot be encoded") from None
        return value


@frozen
class HeaderText(Text):
    """The value of a header: no line breaks, no control characters."""

    max_length: int = 8_000

    @property
    def text(self) -> str:
        """The length and the characters."""
        return f"a string of at most {self.max_length:,} characters without line breaks or control characters"

    def convert(self, value: Any) -> object:
        """Return the value."""
        if _CONTROL.search(value):
            raise ValueError("control characters")
        return super().convert(value)


@frozen
class Method(Text):
    """An HTTP method."""

    @property
    def text(self) -> str:
        """The type."""
        return "an HTTP method"

    def convert(self, value: Any) -> object:
        """Return the value in upper case."""
        if len(value) > 100 or not _TOKEN.fullmatch(value):
            raise ValueError("not a token")
        return value.upper()


@frozen
class FieldPath:
    """A dotted path to a field of `data`."""

    text: str = "a dotted path, such as 'paid_total' or 'items.*.sku'"

    def has_type(self, value: object) -> bool:
        """Return True: `convert` raises ValueError for everything that is not a path."""
        del value
        return True

    def convert(self, value: Any) -> object:
        """Return the value."""
        if not isinstance(value, str) or len(value) > 500 or not all(value.split(".")):
            raise ValueError("not a path")
        return Text().convert(value)


@frozen
class Body:
    """Bytes that are sent unchanged."""

    text: str = "bytes"

    def has_type(self, value: object) -> bool:
        """Return whether it is bytes."""
        return isinstance(value, bytes)

    def convert(self, value: Any) -> object:
        """Return the value."""
        return value


@frozen
class Headers:
    """Header names and values."""

    text: str = "a mapping of header names to values without line breaks or control characters"

    def has_type(self, value: object) -> bool:
        """Return whether it is a mapping."""
        return isinstance(value, Mapping)

    def convert(self, value: Any) -> object:
        """Return a copy."""
        lines = dict(cast("Mapping[object, object]", value))
        for name, line in lines.items():
            if not isinstance(name, str) or not _TOKEN.fullmatch(name) or not isinstance(line, str):
                raise ValueError("not a header")
            HeaderText().convert(line)
        return lines


@frozen
class JsonValue:
    """A value that the sandbox can encode as JSON: with `Decimal` and int, without float."""

    text: str = "a JSON value, with Decimal for fractions"

    def has_type(self, value: object) -> bool:
        """Return whether all parts have a type that can be encoded."""
        return _is_json(value, _MAX_DEPTH)

    def convert(self, value: Any) -> object:
        """Return the value."""
        if not _is_bounded(value):
            raise ValueError("cannot be encoded")
        return value


def _is_json(value: object, depth: int) -> bool:
    # The exact types of `json_codec.encode`: a subclass would be accepted here and fail in the response.
    if type(value) in {type(None), bool, int, str, Decimal}:
        return True
    if depth == 0:
        return False
    if type(value) is dict:
        fields = cast("dict[object, object]", value)
        return all(type(name) is str and _is_json(item, depth - 1) for name, item in fields.items())
    if type(value) in {list, tuple}:
        return all(_is_json(item, depth - 1) for item in cast("Iterable[object]", value))
    return False


def _is_bounded(value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and abs(value.adjusted()) < _MAX_EXPONENT
    if isinstance(value, dict):
        return all(_is_bounded(item) for item in cast("dict[str, object]", value).values())
    if isinstance(value, list | tuple):
        return all(_is_bounded(item) for item in cast("Iterable[object]", value))
    return not isinstance(value, int) or abs(value) < _MAX_INTEGER


@frozen
class Argument:
    """One argument of a fault.

    Attributes:
        name: the keyword.
        default: the value of a missing argument.
        rules: the types that it may have, with their bounds.
    """

    name: str
    default: object
    rules: tuple[Rule, ...] = field(repr=False)

    @property
    def text(self) -> str:
        """The rules in words."""
        return ", or ".join(rule.text for rule in self.rules)

    def check(self, value: object, owner: str) -> object:
        """Return the value, converted.

        Raises:
            TypeError: if the value has a wrong type.
            ValueError: if the value is out of bounds.
        """
        for rule in self.rules:
            if rule.has_type(value):
                try:
                    return rule.convert(value)
                except (ValueError, ArithmeticError):
                    raise ValueError(f"{owner} needs {self.name}= to be {self.text}") from None
        raise TypeError(f"{owner} needs {self.name}= to be {self.text}, not {type(value).__name__}")


def arguments_of(function: Callable[..., object]) -> dict[str, Argument]:
    """Return the keyword-only arguments of a function by name, from its signature."""
    hints = get_type_hints(function, include_extras=True)
    return {
        one.name: Argument(one.name, one.default, tuple(_rules(hints[one.name])))
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }


_PLAIN: dict[object, type[Rule]] = {type(None): Nothing, bool: Flag, str: Text, bytes: Body}


def _rules(hint: Any) -> Iterator[Rule]:
    origin = get_origin(hint)
    if origin is Annotated:
        _, *marks = get_args(hint)
        yield from (cast("Rule", mark) for mark in marks)
    elif origin is Literal:
        yield Choice(get_args(hint))
    elif origin in {Union, types.UnionType}:
        for one in get_args(hint):
            yield from _rules(one)
    else:
        yield _PLAIN[hint]()  # a number without bounds raises KeyError here, when the fault is registered


_YEAR = 366 * 86_400

Seconds = Annotated[float, Number(0, _YEAR)]
HttpStatus = Annotated[int, Number(200, 999, is_whole=True)]
Whole = Annotated[int, Number(-(2**63), 2**63 - 1, is_whole=True)]
RowId = Annotated[int | None, Nothing(), Number(1, 2**63 - 1, is_whole=True)]
Times = Annotated[int, Number(1, 10**9, is_whole=True)]
Skipped = Annotated[int, Number(0, 10**9, is_whole=True)]
Count = Annotated[int, Number(0, 100_000, is_whole=True)]
Depth = Annotated[int, Number(0, 1_000_000, is_whole=True)]
HeaderSize = Annotated[int, Number(0, 16 * 1024**2, is_whole=True)]
BodySize = Annotated[int, Number(0, 256 * 1024**2, is_whole=True)]
Share = Annotated[float, Number(0, 1)]
RetryAfter = Annotated[
    int | float | str | None, Nothing(), Number(0, _YEAR, is_whole=True), Number(0, _YEAR), HeaderText()
]
HeaderValue = Annotated[str, HeaderText()]
Pattern = Annotated[str, Text(1_000)]
HttpMethod = Annotated[str, Method()]
Name = Annotated[str, Text(200, 1)]
Field = Annotated[str, FieldPath()]
Json = Annotated[object, JsonValue()]
HeaderLines = Annotated[Mapping[str, str] | None, Nothing(), Headers()]
BodyOrJson = Annotated[object, Body(), Text(), JsonValue()]
