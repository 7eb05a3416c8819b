"""Masking of personal data and tokens in the `repr` of models."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast

import attrs

__all__ = ["masked", "masked_except_last", "masked_except_last_two", "to_dict", "without_personal_data"]

_M = TypeVar("_M", bound=attrs.AttrsInstance)
_STARS: Final = "***"


def masked(value: object) -> str:
    """Mask the whole value. None and the empty string are shown."""
    return repr(value) if value is None or value == "" else repr(_STARS)


def masked_except_last_two(value: object) -> str:
    """Mask all but the last two characters of an identity or tax number, or all if it has at most four."""
    return repr(f"{_STARS}{value[-2:]}") if isinstance(value, str) and len(value) > 4 else masked(value)  # noqa: PLR2004


def masked_except_last(value: object) -> str:
    """Mask all but the last four characters of a token or id, or all if it has at most twelve."""
    return repr(f"{_STARS}{value[-4:]}") if isinstance(value, str) and len(value) > 12 else masked(value)  # noqa: PLR2004


_MASKS: Final = frozenset({masked, masked_except_last_two, masked_except_last})


def to_dict(model: attrs.AttrsInstance, *, redact: bool = False) -> dict[str, Any]:
    """Convert a model to nested dicts, keyed by attribute name.

    Attributes that are not compared by `==` are left out: `raw`, and the send time and clock of a price lock.

    Args:
        model: Any model of this package.
        redact: Replace values that the `repr` masks by `***`.
    """
    return {
        field.name: _plain(getattr(model, field.name), redact, is_masked=field.repr in _MASKS)
        for field in attrs.fields(type(model))
        if field.eq
    }


def _plain(value: Any, redact: bool, *, is_masked: bool) -> Any:
    if redact and is_masked:
        return value if value is None or value == "" else _STARS
    if attrs.has(value.__class__):
        return to_dict(value, redact=redact)
    if isinstance(value, tuple | list):
        return [_plain(item, redact, is_masked=False) for item in cast("tuple[Any, ...]", value)]
    return value


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
        elif field.repr in _MASKS:
            value = _STARS if isinstance(value, str) and value else (value if value == "" else None)
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
