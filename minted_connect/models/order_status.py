"""Words for the status of an order that failed, in the languages of the API. No I/O."""

from __future__ import annotations

import unicodedata
from typing import Final

from minted_connect.models.deal import OrderStatus

__all__ = ["is_failing", "is_known"]

_FAILING: Final = (
    *("Cancelled", "Canceled", "Failed", "Rejected", "Declined", "Refused", "Expired", "Voided", "Refunded"),
    *("\u0130ptal", "\u0130ptal Edildi", "Ba\u015far\u0131s\u0131z", "Reddedildi", "Onaylanmad\u0131"),
    *("S\u00fcresi Doldu", "\u0130ade", "\u0130ade Edildi"),
)


def _normalised(word: str) -> str:
    """Return a word without case and marks, so that spellings of one word are equal."""
    # The Turkish dotless i has no decomposition, and upper case makes it the letter I.
    plain = unicodedata.normalize("NFKD", word.casefold().replace("\u0131", "i"))
    return " ".join("".join(letter for letter in plain if not unicodedata.combining(letter)).split())


_FAILING_WORDS: Final = frozenset(map(_normalised, _FAILING))
_KNOWN_WORDS: Final = _FAILING_WORDS | frozenset(map(_normalised, OrderStatus))


def is_failing(status: object) -> bool:
    """Return whether a status name means that the order was cancelled, refused or paid back.

    The name is compared whole, whatever its case and marks. The vendor documents `Cancelled` and `Refunded`
    (api-3652432, 2024-06-26); the other words are inferred.
    """
    return isinstance(status, str) and _normalised(status) in _FAILING_WORDS


def is_known(status: object) -> bool:
    """Return whether the meaning of a status name is known."""
    return isinstance(status, str) and _normalised(status) in _KNOWN_WORDS
