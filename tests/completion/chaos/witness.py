"""Records, on the server, the posted completions and the orders of each intent."""

from __future__ import annotations

from typing import Any, Final

from minted_connect.sandbox import LoggedRequest, Sandbox
from minted_connect.sandbox.entities import FAILING

__all__ = ["HEADER", "RequestObserver"]

HEADER: Final = "Idempotency-Key"
"""Carries the id of the intent to the sandbox, which ignores it."""


class RequestObserver:
    """Records every completion that a started sandbox receives, by intent."""

    def __init__(self, server: Sandbox) -> None:
        self._server = server
        self._posts: dict[str, list[LoggedRequest]] = {}
        self._made: dict[str, list[int]] = {}
        self.reported_failures: dict[str, str] = {}
        """Labels by id of the intents that a caller was told were not executed."""
        log_request, dispatch = server._log_request, server.dispatcher.dispatch

        def record_request(request: Any, request_id: str) -> LoggedRequest | None:
            entry = log_request(request, request_id)
            if entry is not None and HEADER in request.headers:
                self._posts.setdefault(request.headers[HEADER], []).append(entry)
            return entry

        def record_orders(partner: str, incoming: Any, *accepted: Any) -> Any:
            before = len(server.shop.orders)
            reply = dispatch(partner, incoming, *accepted)
            made = [order.id for order in server.shop.orders[before:]]
            if made:
                self._made.setdefault(incoming.headers[HEADER], []).extend(made)
            return reply

        server._log_request = record_request  # type: ignore[method-assign]
        server.dispatcher.dispatch = record_orders  # type: ignore[method-assign]

    def posts(self, intent: str) -> int:
        """Return how often an intent was posted; requests that received a digest challenge do not count."""
        return sum(not _is_challenge(entry) for entry in self._posts.get(intent, ()))

    @property
    def total_posts(self) -> int:
        """Number of posted completions."""
        return sum(map(self.posts, self._posts))

    def posted_twice(self) -> list[str]:
        """Return the ids of the intents that were posted more than once."""
        return [intent for intent in self._posts if self.posts(intent) > 1]

    def confirmed_too_early(self) -> dict[str, str]:
        """Return the intents that have an order although a caller was told that they were not executed."""
        return {intent: label for intent, label in self.reported_failures.items() if self.orders(intent)}

    def orders(self, intent: str) -> list[Any]:
        """Return the orders of an intent that did not fail."""
        made = self._made.get(intent, ())
        shop = self._server.shop
        return [order for order in shop.orders if order.id in made and shop.status(order)[1] not in FAILING]


def _is_challenge(entry: LoggedRequest) -> bool:
    # A request with an expired nonce may have met another fault; only these two faults send a 401 themselves.
    return entry.status == 401 and entry.fault not in {"refusal", "status"}
