"""Marks the outcome of a purchase as unknown: its intent stays open, so that its basket cannot be completed again.

`classify` decides which failures have an unknown outcome, `verdict` whether a read-back proves one. Two other places
store an intent as unknown: `Settlement.record_refusal`, for a refusal until its read-back, and `Execution.run`, if a
signal interrupts the call after the request may have been sent.
"""

from __future__ import annotations

import logging

from minted_connect.completion.settlement import Settlement, describe_intent
from minted_connect.completion.unknown_text import NOT_READ, Report, build_unknown
from minted_connect.core.logs import log_error
from minted_connect.errors import OutcomeUnknown, Phase
from minted_connect.models import Intent, IntentState

__all__ = ["mark_unknown"]

_logger = logging.getLogger("minted_connect.completion")


async def mark_unknown(
    settlement: Settlement, intent: Intent, phase: Phase, evidence: tuple[str, ...], report: Report = NOT_READ
) -> OutcomeUnknown:
    """Record that the outcome of an intent is unknown, and build the error to raise.

    Args:
        settlement: The settlement of the client.
        intent: The intent.
        phase: The phase that the request reached.
        evidence: Reasons and failures, without personal data.
        report: The result of the latest read-back.
    """
    unknown = build_unknown(intent, phase, evidence, report)
    log_error(
        _logger,
        "%s: the outcome is unknown, the completion may have been executed (phase: %s; %s). Do not repeat it: "
        "reconcile it with complete.reconcile() or python -m minted_connect reconcile",
        describe_intent(intent),
        phase,
        "; ".join(unknown.evidence),
    )
    # Another process may still send an intent that it prepared, so only that process may change its state.
    if intent.state != IntentState.PREPARED or intent.id in settlement.prepared:
        await settlement.settle(intent, IntentState.UNKNOWN, unknown)
    return unknown
