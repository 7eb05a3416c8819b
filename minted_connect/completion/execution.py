"""Executes one completion: preflight checks, journal, one POST, and the read-back that its result requires."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import cast

import attrs

from minted_connect.completion.classify import FailureClass, classify
from minted_connect.completion.in_flight import InFlight
from minted_connect.completion.interruption import attach_intent, watch_purchase
from minted_connect.completion.order_match import is_failed, is_order, mapping, refers_to
from minted_connect.completion.outcome_unknown import mark_unknown
from minted_connect.completion.outcomes import confirm, resolve
from minted_connect.completion.preflight import build_intent, recent_order_ids, refresh_basket
from minted_connect.completion.reconcile import ReadBack, ReadBackResult
from minted_connect.completion.reference import Attempts
from minted_connect.completion.settlement import Settlement, describe_error, describe_intent
from minted_connect.completion.verdict import Outcome
from minted_connect.core.api_client import ApiClient
from minted_connect.core.cancellation import shielded
from minted_connect.core.failures import read_back_offsets
from minted_connect.core.pool import RequestProgress, SendLimit
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.response import Response, make_integrity_error
from minted_connect.errors import (
    APIError,
    InvalidInput,
    JournalError,
    MintedConnectError,
    NotSent,
    Phase,
    PriceFixExpired,
    ProtocolError,
    TransportError,
)
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, ReferenceJournal, already_in_flight_error
from minted_connect.journal.spending import SpendingCheck, SpendingJournal, check_currency, check_purchase
from minted_connect.models import Basket, Completion, Intent, IntentState, Order, OrderKind, Refusal

__all__ = ["Execution"]

_logger = logging.getLogger("minted_connect.completion")


class Execution:
    """Executes one completion.

    Args:
        api: Sends the requests.
        settlement: The journal and the completions in flight.
        in_flight: This completion; receives its intent and its outcome.
        attempts: The earlier intents of its reference, if it has one.
        end: Monotonic time after which the call starts no read-back.
        claim: The claim of the caller, if it filled the basket; `attempts` are given, too.
        frees_customer: Whether the claim no longer excludes others once the outcome is stored.
    """

    def __init__(
        self,
        api: ApiClient,
        settlement: Settlement,
        in_flight: InFlight,
        *,
        attempts: Attempts | None,
        end: float,
        claim: Claim | None = None,
        frees_customer: bool = False,
    ) -> None:
        self._api = api
        self._policy = api.completion_policy
        self._settlement = settlement
        self._in_flight = in_flight
        self._attempts = attempts
        self._claim = claim
        self._frees_customer = frees_customer
        self._progress = RequestProgress()
        self._end = end
        self._spending = api.settings.options.spending if in_flight.kind is OrderKind.BUY else None

    async def run(self, basket: Basket) -> Completion:
        """Check the basket, write the intent into the journal, send once, and return the completion.

        Raises:
            MintedConnectError: as documented for `AsyncCompletions.buy`.
        """
        try:
            return await self._run(basket)
        except (KeyboardInterrupt, SystemExit) as interruption:
            # A signal handler can raise at any point, such as the one of `asyncio.run` on a second Ctrl-C.
            in_flight = self._in_flight
            described = None if self._progress.phase is Phase.NOT_SENT else in_flight.describe_interruption()
            if in_flight.intent is not None and described is not None:
                state, note = described
                attach_intent(interruption, in_flight.intent, state, note)
                with suppress(asyncio.CancelledError):
                    await self._settlement.settle(in_flight.intent, state, in_flight.result or in_flight.error)
            raise

    async def _run(self, basket: Basket) -> Completion:
        in_flight = self._in_flight
        if self._spending is not None:
            check_currency(self._spending, basket.currency_code)
        fresh, limit = await self._refresh_basket(basket)
        if self._spending is not None:
            check_purchase(self._spending, fresh.paid_total, fresh.currency_code)
        known_orders = await recent_order_ids(self._api, fresh, in_flight.kind)
        intent = in_flight.intent = build_intent(
            fresh, in_flight.kind, self._api, known_orders, limit.send_before, in_flight.reference
        )
        try:
            await self._prepare(intent, limit)
            in_flight.may_be_sent = True
            watch_purchase(in_flight)
            return await self._send(intent, limit)
        except asyncio.CancelledError as cancelled:
            intent = in_flight.intent
            # After a cancellation only the journal is updated; no further request is sent. An outcome that was known
            # before is already in the journal.
            if in_flight.state is None:
                # A cancel scope of anyio cancels every await again; the first cancellation is re-raised below.
                with suppress(asyncio.CancelledError):
                    if self._progress.phase is not Phase.NOT_SENT:
                        await mark_unknown(self._settlement, intent, self._progress.phase, ("the call was cancelled",))
                    else:
                        await self._settlement.settle(intent, IntentState.NOT_SENT)
            if in_flight.state is not None and (note := in_flight.describe()) is not None:
                attach_intent(cancelled, intent, in_flight.state, note)
            raise

    async def _refresh_basket(self, basket: Basket) -> tuple[Basket, SendLimit]:
        try:
            return await refresh_basket(self._api, basket, self._in_flight.agreed_total)
        except InvalidInput:
            # If the journal knows why the basket is no longer open, that is the better error.
            with suppress(JournalError):
                journal, account = self._settlement.journal, self._settlement.owner.account
                active = await journal.find_active(basket.customer.external_id, basket.token, account=account)
                if active is not None:
                    raise already_in_flight_error(active) from None
            raise

    async def _prepare(self, intent: Intent, limit: SendLimit) -> None:
        journal = self._settlement.journal
        if isinstance(journal, MemoryJournal) and not self._api.is_loopback and not self._settlement.has_warned:
            self._settlement.has_warned = True
            _logger.warning(
                "completing without a durable journal: after a crash, purchases in flight cannot be found again"
            )
        self._settlement.prepared.add(intent.id)
        # Shielded: a cancelled write could leave an open record that nothing settles.
        try:
            await shielded(self._write_intent(journal, intent))
        except MintedConnectError:
            self._settlement.prepared.discard(intent.id)
            raise
        if limit.is_over(self._api.elapsed(), self._api.latest_server_time()):
            await self._settlement.settle(intent, IntentState.NOT_SENT)
            raise PriceFixExpired("the price lock expired while the intent was written: read the basket again")

    def _write_intent(self, journal: Journal, intent: Intent) -> Awaitable[None]:
        attempts = self._attempts
        if self._spending is not None:
            # `check_spending_journal` has checked the signature.
            return cast("SpendingJournal", journal).prepare(
                intent,
                key=None if attempts is None else attempts.key,
                known=() if attempts is None else attempts.ids,
                claim=self._claim,
                frees_customer=self._frees_customer,
                spending=SpendingCheck(self._spending, self._settlement.owner.account, self._api.account),
            )
        if attempts is None:
            return journal.prepare(intent)
        if self._claim is None:
            assert isinstance(journal, ReferenceJournal)
            return journal.prepare(intent, key=attempts.key, known=attempts.ids)
        assert isinstance(journal, ClaimJournal)
        return journal.prepare(
            intent, key=attempts.key, known=attempts.ids, claim=self._claim, frees_customer=self._frees_customer
        )

    async def _send(self, intent: Intent, limit: SendLimit) -> Completion:
        header = self._policy.idempotency_header
        request = Request(
            OPERATIONS[f"complete.{intent.kind}"],
            body={
                "external_customer_id": intent.external_customer_id,
                "cart_token": intent.cart_token,
                **self._in_flight.extra,
            },
            headers=None if header is None else {header: intent.id},
        )
        progress = self._progress = RequestProgress()
        try:
            response = await self._api.exchange(request, not_after=limit, progress=progress)
        except Exception as error:  # noqa: BLE001 - an unexpected error must not hide a purchase either
            return await self._handle_failure(intent, error)
        return await self._handle_response(intent, request, response)

    async def _handle_failure(self, intent: Intent, error: Exception) -> Completion:
        """Settle a failed request: raise the error, or return the completion if a read-back finds its order."""
        settlement, phase = self._settlement, self._progress.phase
        if isinstance(error, TransportError):
            phase = error.phase
        match classify(error, phase, self._policy.refusals):
            case FailureClass.NOT_SENT:
                await settlement.settle(intent, IntentState.NOT_SENT)
                if isinstance(error, TimeoutError):
                    # A completion that times out raises NotSent or OutcomeUnknown, never a plain timeout.
                    raise NotSent(f"the completion was not sent: {describe_error(error)}") from error
                raise error
            case FailureClass.REFUSED:
                await settlement.settle(intent, IntentState.REJECTED, error)
                raise error
            case FailureClass.CONFIRM_ONCE | FailureClass.CONFIRM_LATER as failure_class:
                assert isinstance(error, APIError)
                return await self._confirm_refusal(intent, error, is_trusted=failure_class is FailureClass.CONFIRM_ONCE)
            case FailureClass.UNKNOWN:
                raise await mark_unknown(settlement, intent, phase, (describe_error(error),)) from error

    async def _confirm_refusal(self, intent: Intent, error: APIError, *, is_trusted: bool) -> Completion:
        """Confirm a refusal by reading back, and raise it; return the completion if an order was made in spite of it.

        Raises:
            APIError: if the refusal is confirmed.
            CompletionRejected: if an order was made and failed.
            OutcomeUnknown: if the time for the read-back ends first.
        """
        responded, settlement = self._api.clock.monotonic(), self._settlement
        refusal = Refusal(error.status, error.is_vendor_response, self._api.latest_server_time())
        intent = await settlement.record_refusal(intent, refusal)
        read_back = ReadBack(self._api, intent, responded_at=responded)
        times = self._poll_times(responded, error.retry_after, is_trusted=is_trusted)
        if times and times[-1] > responded:
            text = "%s: refused with status %d; polling for an order for up to %.0f s before this counts as a refusal"
            _logger.warning(text, describe_intent(intent), error.status, times[-1] - responded)
        result = await self._poll_until_decided(read_back, times)
        if result is None:
            note = "the call ended before the first read-back (inline_looks, deadline or Retry-After): reconcile it"
            raise await mark_unknown(settlement, intent, Phase.RESPONDED, (describe_error(error), note)) from error
        if result.confirms_refusal:
            error.is_confirmed = True
            await settlement.settle(intent, IntentState.REJECTED, error)
            raise error
        return await resolve(settlement, intent, result, Phase.RESPONDED, error)

    async def _poll_until_decided(self, read_back: ReadBack, times: Sequence[float]) -> ReadBackResult | None:
        """Poll at these times until a verdict is proven; return the latest result, None if `times` is empty."""
        clock, result = self._api.clock, None
        for due in times:
            await self._api.sleep_until(due)
            result = await read_back.poll_once(within=self._end - clock.monotonic())
            if result.verdict.outcome is not Outcome.UNKNOWN or read_back.has_failed_permanently:
                break
        return result

    def _poll_times(self, responded: float, retry_after: float | None, *, is_trusted: bool = False) -> list[float]:
        """Return the monotonic times at which to poll for the order after a response; see `read_back_offsets`."""
        policy, not_before = self._policy, retry_after or 0.0
        limit = policy.settle_time if policy.inline_looks is None else policy.inline_looks
        offsets = read_back_offsets(policy.settle_time, not_before)
        if is_trusted:
            first = max(not_before, policy.latest_landing or 0.0)
            offsets = (first, *(offset for offset in offsets if offset > first))
        elif policy.inline_looks == 0:
            return []
        limit = max(limit, not_before) if policy.inline_looks is None else limit
        return [responded + offset for offset in offsets if offset <= limit and responded + offset < self._end]

    async def _handle_response(self, intent: Intent, request: Request, response: Response) -> Completion:
        """Settle a completion by its successful response."""
        raw = mapping(response.data)
        order: Order | None = None
        problem: ProtocolError | None = None
        try:
            order = self._api.structure(response.data, Order, request, response)
        except ProtocolError as error:
            problem = error
        if not refers_to(raw, intent) or ("order_creation_status" in raw and not is_order(raw)):
            if order is not None:
                problem = make_integrity_error(("data: is not the order of this basket",), request.info, response)
            assert problem is not None
            raise await mark_unknown(self._settlement, intent, Phase.RESPONDED, (describe_error(problem),)) from problem
        if is_failed(raw):
            return await self._confirm_failure(intent)
        return await confirm(self._settlement, intent, order, raw, reconciled=False)

    async def _confirm_failure(self, intent: Intent) -> Completion:
        """Read back an order that has a failing status in the response to its completion.

        Raises:
            CompletionRejected: if the list of orders shows the order as failed, too.
            OutcomeUnknown: if the order cannot be read.
        """
        responded = self._api.clock.monotonic()
        read_back = ReadBack(self._api, attrs.evolve(intent, state=IntentState.UNKNOWN), responded_at=responded)
        result = await self._poll_until_decided(read_back, self._poll_times(responded, None))
        note = "status_name: the order had a failing status in the response to the completion"
        if result is None:
            raise await mark_unknown(self._settlement, intent, Phase.RESPONDED, (note,))
        if result.verdict.outcome is not Outcome.REJECTED:
            result = attrs.evolve(result, notes=(note, *result.notes))
        return await resolve(self._settlement, intent, result, Phase.RESPONDED)
