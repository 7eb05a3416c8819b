"""The open intents of a client: `complete.pending` and `complete.reconciler`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final

from minted_connect import validation
from minted_connect.completion.intent_records import IntentRecords
from minted_connect.completion.reconciler import Reconciler, ReconcilerStatus
from minted_connect.errors import InvalidInput
from minted_connect.models import Intent, ReconcileResult

__all__ = ["OpenIntents"]

_MIN_LEASE: Final = 1.0
"""Shortest lease in seconds: an operation of the journal may take some tenths."""


class OpenIntents(IntentRecords):
    """Base class of `AsyncCompletions`: lists the open intents, and settles them in the background."""

    async def pending(self, *, all_accounts: bool = False) -> list[Intent]:
        """Return the intents with an unknown outcome, oldest first; pass each to `reconcile`.

        After a crash, these are the purchases that may have happened. Completions that are in flight in this client are
        not included; those of other running processes with the same journal are. Unreadable records are not included
        and are logged at ERROR with their ids.

        Args:
            all_accounts: Include the intents of other accounts in the same journal, which this client can reconcile
                only after `adopt`. If False, a warning with their number is logged.

        Raises:
            JournalError: if the journal cannot be read, or was lost while in use.
        """
        validation.boolean("all_accounts", all_accounts)
        in_flight = self._settlement.ids_in_flight()
        intents = await self._settlement.journal.pending()
        in_flight |= self._settlement.ids_in_flight()  # some calls may have started while the journal was read
        selected = intents if all_accounts else self._settlement.filter_own(intents, "open")
        return [intent for intent in selected if intent.id not in in_flight]

    def reconciler(
        self,
        *,
        interval: float = 60.0,
        fence: bool = False,
        budget: float | None = None,
        lease: float = 60.0,
        on_result: Callable[[ReconcileResult], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
        on_status: Callable[[ReconcilerStatus], object] | None = None,
    ) -> Reconciler:
        """Return a reconciler, which settles the open intents of this account in the background.

        `async with complete.reconciler() as reconciler:` starts it, for the lifetime of a service. It works as
        `reconcile_all`, at once and then every `interval` seconds by the client's clock, and never sends a completion.

        One process per account and journal is active; the others stand by. When the active one is closed, when its
        round fails or when its lease expires, another one takes over.

        An intent that stays open is read again after `interval` seconds, then after twice as long each time, up to an
        hour. A prepared intent is read two minutes after it was prepared, because its call may still run. After a
        failure of the server, the credentials or the journal, the next round begins after `interval` seconds, then
        after twice as long each time, up to an hour or the server's Retry-After. All these waits are up to a quarter
        longer at random. Failures never end the reconciler.

        The hooks are plain functions, called on the thread of the event loop. They must not block; an exception that
        they raise is logged.

        Args:
            interval: Seconds from the start of a round to the start of the next one, if it does not take longer.
            fence: As for `reconcile_all`.
            budget: Seconds for the intents of one round together. None = `CompletionPolicy.reconcile_budget` (120 by
                default).
            lease: Seconds in real time, at least 1, after which another process takes over if this one was killed or
                stopped. The lease is stored in the journal, and renewed three times as often.
            on_result: Called with the result of each intent that was settled.
            on_error: Called with the error of a failed round, or of an intent that could not be reconciled; once for
                errors of the same class, until a round succeeds.
            on_status: Called with the new status when the state changes.

        Raises:
            ConfigurationError: if the journal cannot store the lease (`ClaimJournal`); for `fence` with
                `Options.read_only`.
            InvalidInput: if an argument is invalid.
        """
        validation.boolean("fence", fence)
        if fence:
            self._api.check_may_change("complete.reconciler(fence=True)")
        self._api.check_may_complete("complete.reconciler")
        if validation.seconds("lease", lease) < _MIN_LEASE:
            raise InvalidInput.of("lease", "must be at least 1 second")
        for name, hook in (("on_result", on_result), ("on_error", on_error), ("on_status", on_status)):
            if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
                raise InvalidInput.of(name, "must be a plain function, or None")
        return Reconciler(
            self._api,
            self._settlement,
            self.pending,
            interval=validation.seconds("interval", interval),
            fence=fence,
            budget=None if budget is None else validation.seconds("budget", budget),
            lease=lease,
            on_result=on_result,
            on_error=on_error,
            on_status=on_status,
        )
