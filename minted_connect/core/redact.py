"""Redaction of texts from outside: one short line without personal data and tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["redact", "shorten"]

_MAX_LENGTH: Final = 200
_MAX_INPUT: Final = 10_000
_MIN_SECRET: Final = 2
_MIN_SUBSTRING: Final = 4
"""A shorter secret ("tr") is masked only as a whole word; otherwise parts of unrelated words would be masked."""
_MASK: Final = "***"

_MAIL: Final = r"[^\s@<>\"'(),;:]"
# Each pattern can match a text in one way only, so that no input causes catastrophic backtracking.
_PATTERNS: Final = (
    (re.compile(r"//[^/\s@]*@"), "//"),
    (re.compile(r"\?[^\s?]*=\S*"), "?***"),
    (re.compile(rf"(?<!{_MAIL}){_MAIL}+@{_MAIL}+"), _MASK),
    # Cart tokens, UUIDs, signatures: 24 characters or more, with a digit or an upper-case letter among them.
    (re.compile(r"(?<![\w-])(?=[\w-]*[0-9A-Z])[\w-]{24,}"), _MASK),
    # Phone numbers, identity numbers, dates.
    (re.compile(r"\+?\d(?:[\s()/-]{0,2}\d){4,}"), _MASK),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` as one line of at most 200 printable characters, with personal data and secrets masked.

    Masked are e-mail addresses, five or more digits in a row or with separators (phone numbers, identity numbers,
    dates), UUIDs, tokens, query strings, user info in URLs, and each of `secrets` with at least two characters,
    case-insensitively, as a whole and word by word. Never raises.
    """
    line = " ".join("".join([char if char.isprintable() else " " for char in text[:_MAX_INPUT]]).split())
    if masked := sorted(_words(secrets), key=len, reverse=True):
        line = re.sub("|".join([_pattern(secret) for secret in masked]), _MASK, line, flags=re.IGNORECASE)
    for pattern, replacement in _PATTERNS:
        line = pattern.sub(replacement, line)
    return shorten(line)


def shorten(line: str) -> str:
    """Return at most 200 characters of a line; the last is an ellipsis if some are missing."""
    return line if len(line) <= _MAX_LENGTH else f"{line[: _MAX_LENGTH - 1]}…"


def _words(secrets: Iterable[str]) -> set[str]:
    lines = {" ".join(secret.split()) for secret in secrets}
    parts = {part for line in lines for part in line.split()}
    return {part for part in lines | parts if len(part) >= _MIN_SECRET}


def _pattern(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= _MIN_SUBSTRING else rf"(?<!\w){escaped}(?!\w)"
