"""Prints a line on standard error while a command waits for the outcome of a change that failed."""

from __future__ import annotations

import asyncio
from typing import Final

from minted_connect.cli.output import Output
from minted_connect.config import Timeouts
from minted_connect.core.request import OPERATIONS, Effect
from minted_connect.errors import Phase
from minted_connect.hooks import Attempt
from minted_connect.request_info import method_and_route

__all__ = ["WaitNotice"]

_DELAY: Final = 1.0
"""Seconds to wait before the notice, because most outcomes are known after one read."""


class WaitNotice:
    """Tells the user why a command is still running after a change failed.

    After a change whose outcome is unknown, and after most refused purchases, the client reads for a while before it
    raises the error.
    """

    def __init__(self, out: Output, timeouts: Timeouts) -> None:
        self._out = out
        self._timeouts = timeouts
        self._timer: asyncio.TimerHandle | None = None

    def on_attempt(self, attempt: Attempt) -> None:
        """Schedule the notice after a failed change, and cancel it after a successful one. For `Options.on_attempt`."""
        operation = OPERATIONS.get(attempt.operation)
        if operation is None or operation.effect is Effect.READ:
            return
        self.cancel()
        is_failed = attempt.error is not None and attempt.error != "CancelledError"
        if is_failed and attempt.phase is not Phase.NOT_SENT:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_DELAY, self._print, attempt, operation.effect is Effect.COMPLETE)

    def cancel(self) -> None:
        """Cancel the notice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _print(self, attempt: Attempt, is_completion: bool) -> None:
        reason = attempt.error if attempt.status is None else f"status {attempt.status}"
        if is_completion:
            seconds, question = self._timeouts.complete_total, "whether an order was placed"
        else:
            # The last read starts before the deadline of the change, and has its own deadline.
            seconds, question = 2 * self._timeouts.total, "whether the change was made"
        self._out.print_message(
            f"minted: {method_and_route(attempt.method, attempt.route)} failed ({reason}): "
            f"waiting for up to {seconds:.0f} s to find out {question}"
        )
