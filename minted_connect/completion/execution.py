"""One completion from the look at the basket to its outcome: what is done in which order, and what a failure means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import attrs

from minted_connect.completion.classify import FailureClass, classify
from minted_connect.completion.interruption import attach_intent, watch_purchase
from minted_connect.completion.order_match import is_failed, is_order, mapping, refers_to
from minted_connect.completion.preflight import new_intent, pre_image, refresh_basket
from minted_connect.completion.reconcile import Finding, ReadBack
from minted_connect.completion.settlement import InFlight, Settlement, describe_error, describe_intent
from minted_connect.completion.verdict import Outcome
from minted_connect.core.api_client import ApiClient
from minted_connect.core.cancellation import shielded
from minted_connect.core.failures import attach_request
from minted_connect.core.pool import RequestProgress, SendLimit
from minted_connect.core.read_back import read_back_offsets
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.response import Response
from minted_connect.errors import (
    APIError,
    IntegrityError,
    InvalidInput,
    JournalError,
    MintedConnectError,
    NotSent,
    Phase,
    PriceFixExpired,
    ProtocolError,
    TransportError,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import already_in_flight_error
from minted_connect.models import Basket, Completion, Intent, IntentState, Order, Refusal

__all__ = ["Execution"]

_logger = logging.getLogger("minted_connect.completion")


class Execution:
    """Carries out one completion; its `flight` keeps what became of it.

    Args:
        caller: Sends the requests.
        outcomes: The journal, and the completions in flight.
        flight: This completion.
        end: Monotonic time after which no look for the order of a refused completion starts.
    """

    def __init__(self, api: ApiClient, settlement: Settlement, flight: InFlight, *, end: float) -> None:
        self._api = api
        self._policy = api.completion_policy
        self._settlement = settlement
        self._flight = flight
        self._progress = RequestProgress()
        self._end = end

    async def run(self, basket: Basket) -> Completion:
        """Look, write down, send once, and tell what became of it.

        Raises:
            MintedConnectError: what `AsyncCompletions.buy` says.
        """
        try:
            return await self._run(basket)
        except (KeyboardInterrupt, SystemExit) as interruption:
            # A signal handler that raises in the middle of a step, such as that of `asyncio.run` on a second Ctrl-C.
            flight = self._flight
            left = None if self._progress.phase is Phase.NOT_SENT else flight.left_open()
            if flight.intent is not None and left is not None:
                state, note = left
                attach_intent(interruption, flight.intent, state, note)
                with suppress(asyncio.CancelledError):
                    await self._settlement.settle(flight.intent, state, flight.result or flight.error)
            raise

    async def _run(self, basket: Basket) -> Completion:
        flight = self._flight
        fresh, limit = await self._refresh_basket(basket)
        known = await pre_image(self._api, fresh, flight.kind)
        intent = flight.intent = new_intent(fresh, flight.kind, self._api, known, limit.send_before)
        try:
            await self._prepare(intent, limit)
            watch_purchase(flight)
            return await self._send(intent, limit)
        except asyncio.CancelledError as cancelled:
            intent = flight.intent
            # Writing into the journal is all that is done now: no second request behind the canceller's back. What
            # was known already stands, and is written down by now.
            if flight.state is None:
                # A cancel scope cancels every await anew; the first cancellation is the one that goes on.
                with suppress(asyncio.CancelledError):
                    if self._progress.phase is not Phase.NOT_SENT:
                        await self._settlement.mark_unknown(intent, self._progress.phase, ("the call was cancelled",))
                    else:
                        await self._settlement.settle(intent, IntentState.NOT_SENT)
            if flight.state is not None and (note := flight.describe()) is not None:
                attach_intent(cancelled, intent, flight.state, note)
            raise

    async def _refresh_basket(self, basket: Basket) -> tuple[Basket, SendLimit]:
        try:
            return await refresh_basket(self._api, basket, self._flight.agreed)
        except InvalidInput:
            # If the journal knows what became of it, that says more than that it is not as it was.
            with suppress(JournalError):
                journal, mine = self._settlement.journal, self._settlement.owner.account
                active = await journal.find_active(basket.customer.external_id, basket.token, account=mine)
                if active is not None:
                    raise already_in_flight_error(active) from None
            raise

    async def _prepare(self, intent: Intent, limit: SendLimit) -> None:
        journal = self._settlement.journal
        if isinstance(journal, MemoryJournal) and not self._api.is_loopback and not self._settlement.warned:
            self._settlement.warned = True
            _logger.warning("money is moved without a journal file: after a crash nobody knows what was under way")
        self._settlement.prepared.add(intent.id)
        # Shielded, so that a cancelled call leaves no open record behind.
        try:
            await shielded(journal.prepare(intent))
        except MintedConnectError:
            self._settlement.prepared.discard(intent.id)
            raise
        if limit.is_over(self._api.elapsed(), self._api.latest_server_time()):
            await self._settlement.settle(intent, IntentState.NOT_SENT)
            raise PriceFixExpired("the price lock ran out while the intent was written down: read the basket again")

    async def _send(self, intent: Intent, limit: SendLimit) -> Completion:
        header = self._policy.idempotency_header
        request = Request(
            OPERATIONS[f"complete.{intent.kind}"],
            body={
                "external_customer_id": intent.external_customer_id,
                "cart_token": intent.cart_token,
                **self._flight.extra,
            },
            headers=None if header is None else {header: intent.id},
        )
        progress = self._progress = RequestProgress()
        try:
            reply = await self._api.exchange(request, not_after=limit, progress=progress)
        except Exception as error:  # noqa: BLE001 - even one nobody thought of must not hide a purchase
            return await self._failed(intent, error)
        return await self._answered(intent, request, reply)

    async def _failed(self, intent: Intent, error: Exception) -> Completion:
        """Turn the failure of a sending into what it means, or find that it succeeded after all."""
        settlement, phase = self._settlement, self._progress.phase
        if isinstance(error, TransportError):
            phase = error.phase
        match classify(error, phase, self._policy.refusals):
            case FailureClass.NOT_SENT:
                await settlement.settle(intent, IntentState.NOT_SENT)
                if isinstance(error, TimeoutError):
                    # A timeout of a completion is either NotSent or OutcomeUnknown, never something in between.
                    raise NotSent(f"nothing was sent: {describe_error(error)}") from error
                raise error
            case FailureClass.REFUSED:
                await settlement.settle(intent, IntentState.REJECTED, error)
                raise error
            case FailureClass.CONFIRM_ONCE | FailureClass.CONFIRM_LATER as fate:
                assert isinstance(error, APIError)
                return await self._confirm_refusal(intent, error, trusted=fate is FailureClass.CONFIRM_ONCE)
            case FailureClass.UNKNOWN:
                raise await settlement.mark_unknown(intent, phase, (describe_error(error),)) from error

    async def _confirm_refusal(self, intent: Intent, error: APIError, *, trusted: bool) -> Completion:
        """Raise the refusal once reading back has confirmed it; return the order if one was made all the same.

        Raises:
            APIError: if no order was made.
            Rejected: if the order was made and failed.
            OutcomeUnknown: if the time for looking ends first.
        """
        responded, settlement = self._api.clock.monotonic(), self._settlement
        refusal = Refusal(error.status, error.is_vendor_response, self._api.latest_server_time())
        intent = await settlement.record_refusal(intent, refusal)
        look = ReadBack(self._api, intent, refused_at=responded)
        times = self._look_times(responded, error.retry_after, trusted=trusted)
        if times and times[-1] > responded:
            text = "%s: refused with status %d; looking for its order for up to %.0f s before this is believed"
            _logger.warning(text, describe_intent(intent), error.status, times[-1] - responded)
        finding = await self._look_until_decided(look, times)
        if finding is None:
            notes = ("no read was made before the call ended (inline_looks, deadline or Retry-After): reconcile it",)
            raise await settlement.mark_unknown(intent, Phase.RESPONDED, (describe_error(error), *notes)) from error
        if finding.confirms_refusal:
            error.is_confirmed = True
            await settlement.settle(intent, IntentState.REJECTED, error)
            raise error
        return await settlement.resolve(intent, finding, Phase.RESPONDED, error)

    async def _look_until_decided(self, look: ReadBack, times: Sequence[float]) -> Finding | None:
        """Look at these times until something is proven; return the latest finding, None if there was no time."""
        clock, finding = self._api.clock, None
        for due in times:
            await self._api.sleep_until(due)
            finding = await look.once(within=self._end - clock.monotonic())
            if finding.verdict.outcome is not Outcome.UNKNOWN or look.is_hopeless:
                break
        return finding

    def _look_times(self, responded: float, retry_after: float | None, *, trusted: bool = False) -> list[float]:
        """Return when to look for the order after a response, in monotonic seconds; see `read_back_offsets`."""
        policy, not_before = self._policy, retry_after or 0.0
        limit = policy.settle_time if policy.inline_looks is None else policy.inline_looks
        offsets = read_back_offsets(policy.settle_time, not_before)
        if trusted:
            first = max(not_before, policy.latest_landing or 0.0)
            offsets = (first, *(offset for offset in offsets if offset > first))
        elif policy.inline_looks == 0:
            return []
        limit = max(limit, not_before) if policy.inline_looks is None else limit
        return [responded + offset for offset in offsets if offset <= limit and responded + offset < self._end]

    async def _answered(self, intent: Intent, request: Request, reply: Response) -> Completion:
        """Read the answer of a completion that the server calls a success."""
        raw = mapping(reply.data)
        order: Order | None = None
        problem: ProtocolError | None = None
        try:
            order = self._api.structure(reply.data, Order, request, reply)
        except ProtocolError as error:
            problem = error
        if not refers_to(raw, intent) or ("order_creation_status" in raw and not is_order(raw)):
            if order is not None:
                text = "data: is about another customer, another basket, or no order"
                problem = attach_request(
                    IntegrityError(
                        "the response is not about the order of this basket", (text,), reply.status, reply.request_id
                    ),
                    request.info,
                )
            assert problem is not None
            raise await self._settlement.mark_unknown(intent, Phase.RESPONDED, (describe_error(problem),)) from problem
        if is_failed(raw):
            return await self._confirm_failure(intent)
        return await self._settlement.confirmed(intent, order, raw, reconciled=False)

    async def _confirm_failure(self, intent: Intent) -> Completion:
        """Read back an order whose status means failure in the response to its completion.

        Raises:
            Rejected: if Get Orders shows it as failed, too.
            OutcomeUnknown: if it cannot be read.
        """
        responded = self._api.clock.monotonic()
        look = ReadBack(self._api, attrs.evolve(intent, state=IntentState.UNKNOWN), refused_at=responded)
        finding = await self._look_until_decided(look, self._look_times(responded, None))
        said = "status_name: the response to the completion showed an order that failed"
        if finding is None:
            raise await self._settlement.mark_unknown(intent, Phase.RESPONDED, (said,))
        if finding.verdict.outcome is not Outcome.REJECTED:
            finding = attrs.evolve(finding, notes=(said, *finding.notes))
        return await self._settlement.resolve(intent, finding, Phase.RESPONDED)
