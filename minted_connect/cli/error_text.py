"""The lines that `minted` prints for an error: its text, its notes, and the next step.

The text of an error that the server reported is made in `core.error_mapping`, that of wrong arguments in `usage`, and
the command of the next step in `hints`; `command` prints them.
"""

from __future__ import annotations

from collections.abc import Callable

from minted_connect.completion.interruption import intent_of
from minted_connect.errors import AlreadyInFlight, MintedConnectError, OutcomeUnknown
from minted_connect.journal.protocol import OPEN

__all__ = ["describe_error", "describe_interruption"]

Hint = Callable[[str], str]
"""Returns the command that finds out the outcome of the intent with this id."""


def describe_error(error: BaseException, hint: Hint) -> list[str]:
    """Return the lines that describe an error and the next step."""
    if not isinstance(error, MintedConnectError):
        return [f"{type(error).__name__}: {error}"]
    lines = [str(error).replace("pass replace=True", "pass --replace")]
    if isinstance(error, OutcomeUnknown):
        lines.append(_next_step(error.intent.id, hint))
    elif isinstance(error, AlreadyInFlight) and error.intent_id is not None and error.order_id is None:
        lines.append(f"find out with: {hint(error.intent_id)}")
    return [*lines, *getattr(error, "__notes__", ())]


def describe_interruption(error: BaseException | None, hint: Hint) -> list[str]:
    """Return the lines about the purchase that a signal interrupted, and the next step; empty if nothing was sent."""
    intent = None if error is None else intent_of(error)
    if intent is None:
        return []
    lines = [note for note in getattr(error, "__notes__", ()) if intent.id in note]
    if intent.state in OPEN:
        lines = [*(lines or [f"intent {intent.id} may have been executed"]), _next_step(intent.id, hint)]
    return lines


def _next_step(intent_id: str, hint: Hint) -> str:
    return f"do not repeat it; find out with: {hint(intent_id)}"
