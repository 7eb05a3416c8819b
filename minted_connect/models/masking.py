"""Masking of personal data and tokens in the `repr` of models."""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

__all__ = ["masked", "masked_except_last", "masked_except_last_two", "to_dict"]

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
