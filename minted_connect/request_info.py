"""Describes a request for errors and hooks: method, route, effect, and the phase that it reached."""

from __future__ import annotations

import enum
from typing import Final

import attrs

__all__ = ["AMBIGUOUS_STATUSES", "Effect", "Phase", "RequestInfo", "method_and_route"]

AMBIGUOUS_STATUSES: Final = frozenset({408, 425})
"""4xx statuses after which the server may still have executed the request."""


class Phase(enum.StrEnum):
    """The progress of a request when it failed."""

    NOT_SENT = "not sent"
    """The request was not sent, or only without a signature."""
    SENT = "sent"
    """At least a part was sent; no response arrived."""
    RESPONDED = "responded"
    """At least a part of a response arrived."""


class Effect(enum.Enum):
    """The effect of repeating a request; the retry rules depend on it."""

    READ = "read"
    """Changes nothing."""
    IDEMPOTENT = "idempotent"
    """Leaves the same state however often it is repeated."""
    NON_IDEMPOTENT = "non-idempotent"
    """Changes the state each time."""
    COMPLETE = "complete"
    """Buys, sells or ships: never sent again once it may have reached the server."""

    @property
    def is_idempotent(self) -> bool:
        """Whether repeating the request leaves the same state as one request does; true for reads, too."""
        return self in {Effect.READ, Effect.IDEMPOTENT}


@attrs.frozen
class RequestInfo:
    """The request that an error belongs to."""

    method: str
    route: str
    """Path template, never the path with ids."""
    effect: Effect

    def __str__(self) -> str:
        return method_and_route(self.method, self.route)


def method_and_route(method: str, route: str) -> str:
    """Return the name of a request in error texts, log lines and spans: its method and path template."""
    return f"{method} {route}"
