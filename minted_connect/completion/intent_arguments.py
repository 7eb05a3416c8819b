"""Arguments that name an intent: the intent, the error with it, or its id."""

from __future__ import annotations

from minted_connect import validation
from minted_connect.errors import InvalidInput, OutcomeUnknown
from minted_connect.models import Intent

__all__ = ["intent_from", "intent_id_from"]


def intent_id_from(intent_or_error: Intent | OutcomeUnknown | str) -> str:
    """Return the id of the intent that an argument names."""
    if isinstance(intent_or_error, str):
        return validation.text("intent_or_error", intent_or_error)
    return intent_from(intent_or_error).id


def intent_from(intent_or_error: Intent | OutcomeUnknown) -> Intent:
    """Return the intent that an argument is or contains."""
    intent = intent_or_error.intent if isinstance(intent_or_error, OutcomeUnknown) else intent_or_error
    if not isinstance(intent, Intent):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("intent_or_error", "must be an Intent from pending(), or an OutcomeUnknown")
    return intent
