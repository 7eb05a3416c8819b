"""Personal data and tokens never show in a `repr`: what stands there instead of them."""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

__all__ = ["last_digits", "masked", "masked_except_last", "to_dict"]

_STARS: Final = "***"


def masked(value: object) -> str:
    """Show that there is a value, not which; `None` and the empty string hide nothing and are shown."""
    return repr(value) if value is None or value == "" else repr(_STARS)


def last_digits(value: object) -> str:
    """Show the last two characters: enough to tell two identity numbers apart, not enough to use one."""
    return repr(f"{_STARS}{value[-2:]}") if isinstance(value, str) and len(value) > 4 else masked(value)  # noqa: PLR2004


def masked_except_last(value: object) -> str:
    """Show the last four characters of a long token or id."""
    return repr(f"{_STARS}{value[-4:]}") if isinstance(value, str) and len(value) > 12 else masked(value)  # noqa: PLR2004


_MASKS: Final = frozenset({masked, last_digits, masked_except_last})


def to_dict(model: attrs.AttrsInstance, *, redact: bool = False) -> dict[str, Any]:
    """Return a model as nested dicts by attribute name; `redact` masks what its `repr` masks.

    What takes no part in equality (`raw`, the stamp of a price lock) is left out.
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
