"""The lines that `minted` prints for an error: its text, its notes, and the next step.

The text of an error that the server reported is made in `core.error_mapping`, that of wrong arguments in `usage`, and
the command of the next step in `hints`; `command` prints them. Texts of the server are Turkish by default, so a wrong
password has a sentence here. Texts of this library name methods and arguments of Python; `_in_shell_words` replaces
them by commands and options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from minted_connect.completion.interruption import intent_of
from minted_connect.errors import (
    AlreadyInFlight,
    AuthenticationFailed,
    InvalidInput,
    MintedConnectError,
    OutcomeUnknown,
)
from minted_connect.journal.protocol import OPEN

__all__ = ["describe_error", "describe_interruption"]

Hint = Callable[[str], str]
"""Returns the command that finds out the outcome of the intent with this id."""

_ASSIGNMENT: Final = re.compile(
    r"call complete\.assign_reference\('([^']*)', reference\) if it is, .* or with None if .*"
)
_PHRASES: Final[Mapping[str, str]] = {
    "pass replace=True": "pass --replace",
    "find it in complete.pending() and reconcile it": "find it with minted reconcile --list, and run minted reconcile",
    "complete.decide (reconcile --decide)": "minted reconcile --decide",
    "complete.decide": "minted reconcile --decide",
    "complete.pending()": "minted reconcile --list",
    "reconcile it with complete.reconcile() or python -m minted_connect reconcile": "run minted reconcile",
    "or assign it to this one with complete.adopt(intent)": "or assign it to this one in a program (complete.adopt)",
    "set Options.journal_account": "set journal_account in the profile",
    "Options.read_only": "read_only",
    "must be given, or below": "must be given, or --below",
    "must be higher than below": "must be higher than --below",
    "start and end go together": "is required with --end",
    "GET (raw)": "GET a request",
    "/{}": "/...",
}
"""Words of the command line for those of the library."""
_OPTIONS: Final[Mapping[str, str]] = {
    "tx_type": "--kind",
    "customer_id": "CUSTOMER",
    "start": "--start",
    "end": "--end",
    "qty": "QTY",
    "metals": "--metal",
    "metal": "--metal",
    "currency_id": "--currency-id",
    "max_total": "--max-total",
    "reference": "--reference",
    "above": "--above",
    "below": "--below",
    "exec": "--exec",
    "interval": "--interval",
    "language": "--language",
}
"""The options and arguments of commands, by the name of the argument in the library."""


def describe_error(error: BaseException, hint: Hint) -> list[str]:
    """Return the lines that describe an error and the next step."""
    if not isinstance(error, MintedConnectError):
        return [f"{type(error).__name__}: {error}"]
    # Not a subclass: the text of an `AuthDowngrade` comes from this library.
    text = _describe_refused_login(error) if type(error) is AuthenticationFailed else str(error)
    if isinstance(error, InvalidInput) and error.field in _OPTIONS:
        text = text.replace(f"{error.field}: ", f"{_OPTIONS[error.field]}: ", 1)
    if isinstance(error, AlreadyInFlight) and error.intent_id is not None and error.order_id is None:
        text = text.removesuffix(": find it in complete.pending() and reconcile it")  # the hint is more exact
    lines = [_in_shell_words(text)]
    if isinstance(error, OutcomeUnknown):
        lines.append(_next_step(error.intent.id, hint))
    elif isinstance(error, AlreadyInFlight) and error.intent_id is not None and error.order_id is None:
        lines.append(f"find out with: {hint(error.intent_id)}")
    return [*lines, *map(_in_shell_words, getattr(error, "__notes__", ()))]


def describe_interruption(error: BaseException | None, hint: Hint) -> list[str]:
    """Return the lines about the purchase that a signal interrupted, and the next step; empty if nothing was sent."""
    intent = None if error is None else intent_of(error)
    if intent is None:
        return []
    lines = [note for note in getattr(error, "__notes__", ()) if intent.id in note]
    if intent.state in OPEN:
        lines = [*(lines or [f"intent {intent.id} may have been executed"]), _next_step(intent.id, hint)]
    return lines


def _in_shell_words(text: str) -> str:
    text = _ASSIGNMENT.sub(
        r"run: minted journal --assign \1 REFERENCE if it is, or with - if it has no reference", text
    )
    for phrase, words in _PHRASES.items():
        text = text.replace(phrase, words)
    return text


def _describe_refused_login(error: AuthenticationFailed) -> str:
    sender = "the server" if error.is_vendor_response else "the server or a gateway"
    # Only the text of the vendor's envelope: a page of a gateway may hold anything.
    message = f' "{error.message}"' if error.is_vendor_response and error.message else ""
    return (
        f"{sender} does not accept the user name or the password ({error.method} {error.path}: {error.status}{message})"
    )


def _next_step(intent_id: str, hint: Hint) -> str:
    return f"do not repeat it; find out with: {hint(intent_id)}"
