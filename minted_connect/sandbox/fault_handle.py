"""The handle of a fault: which requests it matches, how often it was applied, and how to remove it."""

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
    "odd_row",
    "order_status",
    "page_drift",
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
"""All kinds of faults, for type checkers; the same as in `fault_registry.REGISTRY`."""


@define(eq=False)
class Fault:
    """A fault that was added to a sandbox.

    Attributes:
        kind: the kind of fault.
        method: HTTP method of the requests that it matches; None for any.
        path: shell pattern of the paths that it matches; None for any.
        times: how many requests it is applied to; None for no limit.
        after: how many matching requests are skipped first.
        before_auth: whether it is applied before the digest is verified.
        args: the arguments of its kind.
        hits: how many requests it was applied to so far.
        in_flight: how many of these requests may still be executed, or wait for their response.
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
    _matches: int = 0
    _is_removed: bool = False
    _discard: Callable[["Fault"], None] | None = field(default=None, repr=False, alias="discard")
    _waiting: list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]] = field(
        factory=list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]], repr=False
    )

    @property
    def waiting(self) -> int:
        """The number of requests that now wait for the fault to be removed."""
        return sum(not future.done() for _, future in list(self._waiting))

    @property
    def is_armed(self) -> bool:
        """Whether it may be applied to more requests."""
        return not self._is_removed and (self.times is None or self.hits < self.times)

    def remove(self) -> None:
        """Remove the fault; requests that wait in it continue. Idempotent, and callable from any thread."""
        self._is_removed = True
        if self._discard is not None:
            self._discard(self)
        for loop, future in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_set_done, future)

    async def wait_removed(self) -> None:
        """Wait until the fault is removed."""
        loop = asyncio.get_running_loop()
        waiter = (loop, loop.create_future())
        self._waiting.append(waiter)
        try:
            if not self._is_removed:
                await waiter[1]
        finally:
            self._waiting.remove(waiter)

    def count_match(self, method: str, path: str) -> bool:
        """Count the request if it matches; return whether the fault is applied to it."""
        if self.method not in (None, method) or not (self.path is None or fnmatchcase(path, self.path)):
            return False
        self._matches += 1
        return self._matches > self.after and (self.times is None or self.hits < self.times)


def _set_done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
