"""The arguments of a fault: their types and bounds, read from the signature of the function that implements it."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, Union, cast, get_args, get_origin, get_type_hints

from attrs import field, frozen

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_DEEPEST = 50
_WIDEST_EXPONENT = 400
_LARGEST_INTEGER = 10**400
_LONGEST_TEXT = 1_000_000


class Rule(Protocol):
    """One type that an argument may have, with its bounds."""

    @property
    def text(self) -> str:
        """The rule in words, to follow "must be"."""
        ...

    def has_type(self, value: object) -> bool:
        """Tell whether the value is of this type; bounds do not matter."""
        ...

    def convert(self, value: Any) -> object:
        """Return the value as the fault uses it.

        Raises:
            ValueError: if the value is out of bounds.
        """
        ...


@frozen
class Nothing:
    """`None`."""

    text: str = "None"

    def has_type(self, value: object) -> bool:
        """Tell whether it is None."""
        return value is None

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        return value


@frozen
class Flag:
    """`True` or `False`."""

    text: str = "True or False"

    def has_type(self, value: object) -> bool:
        """Tell whether it is a bool; 0 and 1 are not."""
        return isinstance(value, bool)

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        return value


@frozen
class Number:
    """A number within bounds, both included; `is_whole` refuses fractions."""

    low: float
    high: float
    is_whole: bool = False

    @property
    def text(self) -> str:
        """The type and the bounds."""
        return f"{'an integer' if self.is_whole else 'a number'} from {self.low:,} to {self.high:,}"

    def has_type(self, value: object) -> bool:
        """Tell whether it is a number; a bool is not."""
        return not isinstance(value, bool) and isinstance(value, int if self.is_whole else int | float | Decimal)

    def convert(self, value: Any) -> object:
        """Return an int or a float."""
        # Compared before it is converted: float() of a huge int raises OverflowError. NaN is within no bounds.
        if isinstance(value, Decimal) and not value.is_finite():
            raise ValueError("not finite")
        if not self.low <= value <= self.high:
            raise ValueError("out of bounds")
        return value if self.is_whole else float(value)


@frozen
class Choice:
    """One of some values."""

    values: tuple[object, ...]

    @property
    def text(self) -> str:
        """The values."""
        return " or ".join(repr(value) for value in self.values)

    def has_type(self, value: object) -> bool:
        """Tell whether it has the type of one of the values."""
        return type(value) in {type(one) for one in self.values}

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        if value not in self.values:
            raise ValueError("not one of them")
        return value


@frozen
class Text:
    """A string of limited length."""

    longest: int = _LONGEST_TEXT
    shortest: int = 0

    @property
    def text(self) -> str:
        """The length."""
        return f"a string of {self.shortest:,} to {self.longest:,} characters"

    def has_type(self, value: object) -> bool:
        """Tell whether it is a string."""
        return isinstance(value, str)

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        if not self.shortest <= len(value) <= self.longest:
            raise ValueError("too long or too short")
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            raise ValueError("cannot be encoded") from None
        return value


@frozen
class HeaderText(Text):
    """The value of a header: no line breaks, no control characters."""

    longest: int = 8_000

    @property
    def text(self) -> str:
        """The length and the characters."""
        return f"a string of at most {self.longest:,} characters without line breaks or control characters"

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
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
        """Return it in upper case."""
        if len(value) > 100 or not _TOKEN.fullmatch(value):
            raise ValueError("not a token")
        return value.upper()


@frozen
class FieldPath:
    """A dotted path to a field of `data`."""

    text: str = "a dotted path, such as 'paid_total' or 'items.*.sku'"

    def has_type(self, value: object) -> bool:
        """Accept every type: a value that is not a path is a wrong value, not a wrong type."""
        del value
        return True

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        if not isinstance(value, str) or len(value) > 500 or not all(value.split(".")):
            raise ValueError("not a path")
        return Text().convert(value)


@frozen
class Body:
    """Bytes that are sent as they are."""

    text: str = "bytes"

    def has_type(self, value: object) -> bool:
        """Tell whether it is bytes."""
        return isinstance(value, bytes)

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        return value


@frozen
class Headers:
    """Header names and values."""

    text: str = "a mapping of header names to values without line breaks or control characters"

    def has_type(self, value: object) -> bool:
        """Tell whether it is a mapping."""
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
    """A value that the sandbox can write as JSON: `Decimal` and int, never float."""

    text: str = "a JSON value, with Decimal for fractions"

    def has_type(self, value: object) -> bool:
        """Tell whether every part is of a type that JSON knows."""
        return _is_json(value, _DEEPEST)

    def convert(self, value: Any) -> object:
        """Return it unchanged."""
        if not _is_bounded(value):
            raise ValueError("cannot be written")
        return value


def _is_json(value: object, depth: int) -> bool:
    # Exactly what `wire.encode` writes: a subclass would arm the fault and fail in the response.
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
        return value.is_finite() and abs(value.adjusted()) < _WIDEST_EXPONENT
    if isinstance(value, dict):
        return all(_is_bounded(item) for item in cast("dict[str, object]", value).values())
    if isinstance(value, list | tuple):
        return all(_is_bounded(item) for item in cast("Iterable[object]", value))
    return not isinstance(value, int) or abs(value) < _LARGEST_INTEGER


@frozen
class Argument:
    """One argument of a fault.

    Attributes:
        name: of the keyword.
        default: its value when left out.
        rules: what it may be.
    """

    name: str
    default: object
    rules: tuple[Rule, ...] = field(repr=False)

    @property
    def text(self) -> str:
        """The rules in words."""
        return ", or ".join(rule.text for rule in self.rules)

    def check(self, value: object, owner: str) -> object:
        """Return the value as the fault uses it.

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
        yield _PLAIN[hint]()  # a number without bounds is refused here, when the fault is registered


_YEAR = 366 * 86_400

Seconds = Annotated[float, Number(0, _YEAR)]
HttpStatus = Annotated[int, Number(200, 999, is_whole=True)]
Whole = Annotated[int, Number(-(2**63), 2**63 - 1, is_whole=True)]
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
