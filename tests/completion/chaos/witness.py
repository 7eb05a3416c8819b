"""The server's view of each intent: how often its completion was posted, and which orders were made of it."""

from __future__ import annotations

from typing import Any, Final

from minted_connect.sandbox import LoggedRequest, Sandbox
from minted_connect.sandbox.entities import FAILING

__all__ = ["HEADER", "Witness"]

HEADER: Final = "Idempotency-Key"
"""Carries the id of the intent to the sandbox, which ignores it."""


class Witness:
    """Attached to a sandbox that is started, it notes every completion with the intent that it belongs to."""

    def __init__(self, server: Sandbox) -> None:
        self._server = server
        self._posts: dict[str, list[LoggedRequest]] = {}
        self._made: dict[str, list[int]] = {}
        self.refused: dict[str, str] = {}
        """Ids of the intents that a caller was told nothing was bought of, and the words."""
        note, answer = server._log_request, server.dispatcher.dispatch

        def noting(request: Any, request_id: str) -> LoggedRequest | None:
            entry = note(request, request_id)
            if entry is not None and HEADER in request.headers:
                self._posts.setdefault(request.headers[HEADER], []).append(entry)
            return entry

        def answering(partner: str, incoming: Any, *accepted: Any) -> Any:
            before = len(server.shop.orders)
            reply = answer(partner, incoming, *accepted)
            made = [order.id for order in server.shop.orders[before:]]
            if made:
                self._made.setdefault(incoming.headers[HEADER], []).extend(made)
            return reply

        server._log_request = noting  # type: ignore[method-assign]
        server.dispatcher.dispatch = answering  # type: ignore[method-assign]

    def posts(self, intent: str) -> int:
        """Return how often an intent was posted; the challenge of the login is no post."""
        return sum(not _is_challenge(entry) for entry in self._posts.get(intent, ()))

    def posted_twice(self) -> list[str]:
        """Return the ids of the intents that were posted more than once."""
        return [intent for intent in self._posts if self.posts(intent) > 1]

    def believed_too_early(self) -> dict[str, str]:
        """Return the intents that made an order although a caller was told that nothing was bought."""
        return {intent: told for intent, told in self.refused.items() if self.orders(intent)}

    def orders(self, intent: str) -> list[Any]:
        """Return the orders of an intent that did not fail."""
        made = self._made.get(intent, ())
        shop = self._server.shop
        return [order for order in shop.orders if order.id in made and shop.status(order)[1] not in FAILING]


def _is_challenge(entry: LoggedRequest) -> bool:
    # A fault before the login may have met a nonce that was used up; only these two write a 401 of their own.
    return entry.status == 401 and entry.fault not in {"refusal", "status"}
