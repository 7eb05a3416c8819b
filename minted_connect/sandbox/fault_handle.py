"""The handle on one scripted fault: what it is, which requests it hits, and how to end it."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from attrs import define, field

FaultKind = Literal[
    "deep",
    "delay",
    "delay_after_commit",
    "drop_after_commit",
    "drop_before_read",
    "drop_field",
    "duplicate_keys",
    "empty",
    "extra_field",
    "gzip_bomb",
    "hang",
    "html",
    "interim",
    "invalid_json",
    "late_commit",
    "long_header",
    "many_headers",
    "nan",
    "order_status",
    "rate_limit",
    "redirect",
    "refusal",
    "slow_loris",
    "stale_nonce",
    "status",
    "success_false",
    "too_large",
    "truncate",
    "two_answers",
    "wrong_customer",
]
"""Every kind of fault, for type checkers; the registry holds the same, in `fault_registry.REGISTRY`."""


@define(eq=False)
class Fault:
    """A handle on one scripted fault.

    Attributes:
        kind: what goes wrong.
        method: HTTP method it is limited to.
        path: shell pattern of paths it is limited to.
        times: how often it strikes; None for ever.
        after: how many matching requests it lets pass first.
        before_auth: strike before the digest is looked at.
        args: the kind's own arguments.
        hits: how often it struck so far.
        in_flight: how many of the requests it struck may still be executed, or wait for their response.
    """

    kind: FaultKind
    method: str | None
    path: str | None
    times: int | None
    after: int
    before_auth: bool
    args: Mapping[str, Any]
    hits: int = 0
    in_flight: int = 0
    _seen: int = 0
    _removed: bool = False
    _discard: Callable[["Fault"], None] | None = field(default=None, repr=False, alias="discard")
    _waiting: list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]] = field(
        factory=list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]], repr=False
    )

    @property
    def waiting(self) -> int:
        """The number of requests that hang in this fault right now."""
        return sum(not future.done() for _, future in list(self._waiting))

    @property
    def is_armed(self) -> bool:
        """Whether it may still strike."""
        return not self._removed and (self.times is None or self.hits < self.times)

    def remove(self) -> None:
        """End the fault; requests that hang in it go on. From any thread, and more than once."""
        self._removed = True
        if self._discard is not None:
            self._discard(self)
        for loop, future in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # that sandbox is closed already
                loop.call_soon_threadsafe(_release, future)

    async def removed(self) -> None:
        """Wait until the fault is removed."""
        loop = asyncio.get_running_loop()
        waiter = (loop, loop.create_future())
        self._waiting.append(waiter)
        try:
            if not self._removed:
                await waiter[1]
        finally:
            self._waiting.remove(waiter)

    def matches(self, method: str, path: str) -> bool:
        """Tell whether this request is hit, and count it."""
        if self.method not in (None, method) or not (self.path is None or fnmatchcase(path, self.path)):
            return False
        self._seen += 1
        return self._seen > self.after and (self.times is None or self.hits < self.times)


def _release(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
