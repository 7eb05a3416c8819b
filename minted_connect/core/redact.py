"""Other people's words made fit to be shown: no personal data, no tokens, one short line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["redact"]

_LONGEST: Final = 200
_LONGEST_READ: Final = 10_000
_SHORTEST_SECRET: Final = 2
_SHORTEST_ANYWHERE: Final = 4
"""A shorter secret ("tr") is masked as a word only, or it would eat up other words."""
_STARS: Final = "***"

_MAIL: Final = r"[^\s@<>\"'(),;:]"
# Each pattern has one way to match a text, so that a hostile text takes no longer than a friendly one.
_PATTERNS: Final = (
    (re.compile(r"//[^/\s@]*@"), "//"),
    (re.compile(r"\?[^\s?]*=\S*"), "?***"),
    (re.compile(rf"(?<!{_MAIL}){_MAIL}+@{_MAIL}+"), _STARS),
    # Cart tokens, UUIDs, signatures: long, and no plain words.
    (re.compile(r"(?<![\w-])(?=[\w-]*[0-9A-Z])[\w-]{24,}"), _STARS),
    # Phones, identity numbers, dates.
    (re.compile(r"\+?\d(?:[\s()/-]{0,2}\d){4,}"), _STARS),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` as one line of at most 200 printable characters without what could name or harm somebody.

    Masked are e-mail addresses, runs of five digits or more (phones, identity numbers, dates), UUIDs, tokens,
    query strings, and every one of `secrets` of at least two characters, in any case, whole and word by word.
    It never raises.
    """
    line = " ".join("".join([char if char.isprintable() else " " for char in text[:_LONGEST_READ]]).split())
    if masked := sorted(_words(secrets), key=len, reverse=True):
        line = re.sub("|".join([_pattern(secret) for secret in masked]), _STARS, line, flags=re.IGNORECASE)
    for pattern, instead in _PATTERNS:
        line = pattern.sub(instead, line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _words(secrets: Iterable[str]) -> set[str]:
    lines = {" ".join(secret.split()) for secret in secrets}
    parts = {part for line in lines for part in line.split()}
    return {part for part in lines | parts if len(part) >= _SHORTEST_SECRET}


def _pattern(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= _SHORTEST_ANYWHERE else rf"(?<!\w){escaped}(?!\w)"
