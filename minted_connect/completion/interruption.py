"""Attaches the intent of an interrupted purchase to exceptions, and finds it again.

A cancellation, a timeout of `asyncio` or `anyio`, Ctrl-C or a closed client can end a purchase after it was sent. The
exception that reaches the caller is then often not the one that this library raised or saw, but has that one as its
cause, as its context or in a group.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, Protocol, cast

import attrs

from minted_connect.errors import ClientClosedError, InvalidInput, MintedConnectError
from minted_connect.models import Intent, IntentState

__all__ = [
    "PurchaseWatch",
    "attach_intent",
    "attach_purchase",
    "copy_intent",
    "current_watch",
    "intent_of",
    "watch_purchase",
]

# In the exception's own `__dict__`, so that it survives re-raising, pickle and copy.
_ATTRIBUTE: Final = "_minted_intent"


def intent_of(exception: BaseException) -> Intent | None:
    """Return the intent of a purchase that this exception interrupted or left unknown.

    Works for every exception that can end a purchase: `OutcomeUnknown`, `NotExecuted`, `ClientClosedError`,
    `asyncio.CancelledError`, `KeyboardInterrupt`, `SystemExit`, the `TimeoutError` of `asyncio.timeout`,
    `asyncio.wait_for` and `anyio.fail_after`, and groups of them. The exception itself is searched first, then the
    members of a group, its cause and its context.

        try:
            async with asyncio.timeout(30):
                await minted.complete.buy(basket, expected_total=total)
        except TimeoutError as error:
            if (intent := intent_of(error)) is not None:
                await minted.complete.reconcile(intent)

    None means that this exception interrupted no purchase that may have been sent. None proves nothing for a purchase
    in a task of a task group: `asyncio.TaskGroup` and `anyio.create_task_group` discard the cancellation of their
    tasks. Call `intent_of` inside that task, or check `complete.pending()` afterwards.

    Args:
        exception: The exception as caught. If it has several intents, the nearest is returned; `complete.pending()`
            lists all.

    Returns:
        The intent as it was when the exception was raised; the journal may have a later state. Its state is `prepared`
        or `unknown`; `confirmed` or `rejected` if only writing the outcome into the journal was interrupted. Pass it to
        `complete.reconcile`.

    Raises:
        InvalidInput: if `exception` is not an exception.
    """
    if not isinstance(exception, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("exception", "must be an exception")
    # Not recursive: chains can be longer than the stack, and can contain cycles.
    seen: set[int] = set()
    waiting: deque[BaseException | None] = deque([exception])
    while waiting:
        error = waiting.popleft()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if (intent := _attached_to(error)) is not None:
            return intent
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(cast("BaseExceptionGroup[BaseException]", error).exceptions)
        # Search a suppressed context too: `raise ... from None` only hides it in the traceback.
        waiting.extend((error.__cause__, error.__context__))
    return None


def attach_intent(error: BaseException, intent: Intent, state: IntentState, note: str) -> None:
    """Attach an intent to the exception that interrupts its purchase, and add a note with its id.

    If the exception is a cancellation and the event loop runs inside a handler of `KeyboardInterrupt` or `SystemExit`,
    attach the intent to that exception too: on a second Ctrl-C, `asyncio.run` discards the cancellation of the task and
    raises only the exception being handled.
    """
    _attach(error, intent, state, note)
    if isinstance(error, asyncio.CancelledError):
        with suppress(RuntimeError):  # no running event loop
            # In a callback, `sys.exception()` is the one handled around the loop, not one of a coroutine.
            asyncio.get_running_loop().call_soon(_attach_to_handled, intent, state, note)


def attach_purchase(error: BaseException, purchase: Purchase) -> None:
    """Attach the intent of a purchase in flight that may have been sent to the exception that ends a wait for it."""
    intent, interruption = purchase.intent, purchase.describe_interruption()
    if intent is not None and interruption is not None:
        state, note = interruption
        attach_intent(error, intent, state, note)


def copy_intent(source: BaseException, target: BaseException) -> None:
    """Copy the intent of an exception, and the notes with its id, to the exception that replaces it."""
    intent = intent_of(source)
    if intent is None:
        return
    target.__dict__.setdefault(_ATTRIBUTE, intent)
    for note in _notes_of(source):
        if intent.id in note:
            _add_note(target, note)


class Purchase(Protocol):
    """A purchase that is in flight."""

    @property
    def intent(self) -> Intent | None:
        """The intent, None before it is built."""
        ...

    def describe_interruption(self) -> tuple[IntentState, str] | None:
        """Return the state and a note for an exception that interrupts the purchase now, None if nothing was sent."""
        ...


@attrs.define(eq=False)
class PurchaseWatch:
    """Gives a thread access to the purchase that the coroutine it waits for is sending.

    The thread may stop waiting before the coroutine has ended: a second Ctrl-C interrupts the wait for the first one.
    """

    purchase: Purchase | None = None
    """The purchase that the thread waits for; its own, or the one of an equal call."""

    def attach_to(self, error: BaseException) -> None:
        """Attach the intent to an exception that ends the wait before the purchase; do nothing if nothing was sent."""
        if self.purchase is None or (
            isinstance(error, MintedConnectError) and not isinstance(error, ClientClosedError)
        ):
            return  # every other error of this library tells by its class whether the purchase was sent
        attach_purchase(error, self.purchase)


current_watch: Final[ContextVar[PurchaseWatch | None]] = ContextVar("minted_connect_purchase", default=None)
"""Set by a blocking caller, read by the coroutine that it waits for."""


def watch_purchase(purchase: Purchase) -> None:
    """Register a purchase in flight with the thread that waits for it."""
    watch = current_watch.get()
    if watch is not None:
        watch.purchase = purchase


def _attach(error: BaseException, intent: Intent, state: IntentState, note: str) -> None:
    error.__dict__[_ATTRIBUTE] = attrs.evolve(intent, state=state)
    _add_note(error, f"intent {intent.id} {note}")


def _attach_to_handled(intent: Intent, state: IntentState, note: str) -> None:
    error = sys.exception()
    if isinstance(error, KeyboardInterrupt | SystemExit):
        _attach(error, intent, state, note)


def _attached_to(error: BaseException) -> Intent | None:
    attached: Any = error.__dict__.get(_ATTRIBUTE)
    if attached is None and isinstance(error, MintedConnectError):
        attached = getattr(error, "intent", None)
    return attached if isinstance(attached, Intent) else None


def _notes_of(error: BaseException) -> tuple[str, ...]:
    return tuple(getattr(error, "__notes__", ()))


def _add_note(error: BaseException, note: str) -> None:
    if note not in _notes_of(error):
        error.add_note(note)
