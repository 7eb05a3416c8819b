"""Masking of personal data and tokens in the `repr` of models."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast

import attrs

__all__ = [
    "STARS",
    "is_masked",
    "masked",
    "masked_except_last",
    "masked_except_last_two",
    "shorten",
    "without_personal_data",
]

_M = TypeVar("_M", bound=attrs.AttrsInstance)
STARS: Final = "***"


def masked(value: object) -> str:
    """Mask the whole value. None and the empty string are shown."""
    return repr(value) if value is None or value == "" else repr(STARS)


def masked_except_last_two(value: object) -> str:
    """Mask all but the last two characters of an identity or tax number, or all if it has at most four."""
    return repr(f"{STARS}{value[-2:]}") if isinstance(value, str) and len(value) > 4 else masked(value)  # noqa: PLR2004


def masked_except_last(value: object) -> str:
    """Mask all but the last four characters of a token or id, or all if it has at most twelve."""
    return repr(f"{STARS}{value[-4:]}") if isinstance(value, str) and len(value) > 12 else masked(value)  # noqa: PLR2004


_MASKS: Final = frozenset({masked, masked_except_last_two, masked_except_last})


def is_masked(field: attrs.Attribute[Any]) -> bool:
    """Return whether the `repr` masks the value of a field."""
    return field.repr in _MASKS


def shorten(value: object, length: int) -> str:
    """Return a value as printable text of at most this many characters."""
    text = "".join([char if char.isprintable() else "\ufffd" for char in str(value)])
    return text if len(text) <= length else f"{text[: length - 3]}..."


def without_personal_data(model: _M) -> _M:
    """Return a copy of a model in which values that the `repr` masks are ``***``, or None if they are not strings.

    Attributes that are not compared by `==` have their default: `raw` is empty.
    """
    copied = copy.copy(model)
    for field in attrs.fields(type(model)):
        value = getattr(model, field.name)
        if not field.eq:
            default: Any = field.default
            value = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
        elif is_masked(field):
            value = STARS if isinstance(value, str) and value else (value if value == "" else None)
        else:
            value = _without_personal_data(value)
        object.__setattr__(copied, field.name, value)
    return copied


def _without_personal_data(value: Any) -> Any:
    if attrs.has(value.__class__):
        return without_personal_data(value)
    if isinstance(value, tuple):
        return tuple(_without_personal_data(item) for item in cast("Iterable[Any]", value))
    return value
