"""The entries of a fleet's stream: one for each round."""

from __future__ import annotations

from typing import Final

import attrs

from minted_connect.core.converter import StructureError, structure
from minted_connect.core.exact_json import Malformed, loads
from minted_connect.models.rate import Rate

__all__ = ["US", "Entry", "parse_entry", "parse_id"]

US: Final = 1_000_000
"""Microseconds per second."""

_VERSION: Final = b"1"
"""Format of the stream entries; entries of another version are skipped."""

_MAX_SECONDS: Final = 1e9
"""Upper bound of the durations that an entry may state."""

_MAX_MICROSECONDS: Final = 2**53
"""Upper bound of the times that Lua's floats represent exactly: the year 2255."""


@attrs.frozen
class Entry:
    """A round as it is stored in the stream."""

    id: str
    number: int
    at: int
    """Microseconds since 1970, by the clock of Redis."""
    gap: float
    interval: float
    """Seconds between two polls of the member that published the round."""
    next_poll_in: float
    """Seconds from `at` to the next poll."""
    after: int
    """Number of the round before this one in its epoch. It is below `number` - 1 if the fleet skipped the numbers of
    an earlier epoch."""
    epoch: str
    """Identifies the rounds since Redis last lost the state of the fleet."""
    rates: tuple[Rate, ...]
    """Empty if the poll failed."""


def parse_id(id_: str) -> tuple[int, int]:
    """Return term and number, which order ids as Redis does."""
    term, number = id_.split("-")
    return int(term), int(number)


def parse_entry(id_: str, fields: dict[bytes, bytes]) -> Entry | None:
    """Parse an entry; return None if it is corrupt or of another version."""
    try:
        if fields[b"version"] != _VERSION:
            return None
        payload = fields[b"rates"]
        number = parse_id(id_)[1]
        return Entry(
            id=id_,
            number=number,
            at=_parse_microseconds(fields[b"at"]),
            gap=_parse_microseconds(fields[b"gap"]) / US,
            interval=_parse_seconds(fields[b"every"]),
            next_poll_in=_parse_seconds(fields[b"next"]),
            after=min(int(fields.get(b"after", number - 1)), number - 1),
            epoch=fields.get(b"epoch", b"").decode(),
            rates=structure(loads(payload), tuple[Rate, ...]) if payload else (),
        )
    except (KeyError, ValueError, Malformed, StructureError):
        return None


def _parse_microseconds(field: bytes) -> int:
    value = int(field)
    if not 0 <= value < _MAX_MICROSECONDS:
        raise ValueError
    return value


def _parse_seconds(field: bytes) -> float:
    value = float(field)
    if not 0 <= value < _MAX_SECONDS:
        raise ValueError
    return value
