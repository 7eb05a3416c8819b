"""Fields that are read from another JSON type, too, as marked in the metadata of the field.

PHP and MySQL write some numbers as strings. Only ids and page counts are marked; numbers of pieces and the seconds of a
price lock are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

__all__ = ["DIGITS", "accepts_digits"]

_METADATA_KEY: Final = "minted_connect.accepts_digits"

DIGITS: Final[Mapping[str, bool]] = {_METADATA_KEY: True}
"""Metadata of a number that may also be a string of its digits (`"15"`), and that `""` leaves out."""


def accepts_digits(field: attrs.Attribute[Any]) -> bool:
    """Return whether a field has the metadata `DIGITS`."""
    return bool(field.metadata.get(_METADATA_KEY))
