"""Scripted faults: what goes wrong, for which requests, and how often. How it looks is in `misbehave`."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

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
    "rate_limit",
    "redirect",
    "slow_loris",
    "stale_nonce",
    "status",
    "success_false",
    "too_large",
    "truncate",
    "two_answers",
    "wrong_customer",
]

KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "deep": {"depth": 10_000},
    "delay": {"seconds": 1.0},
    "delay_after_commit": {"seconds": 1.0},
    "drop_after_commit": {"reset": False},
    "drop_before_read": {"reset": False},
    "drop_field": {"field": ""},
    "extra_field": {"field": "new_field", "value": "new"},
    "gzip_bomb": {"size": 64 * 1024 * 1024},
    "hang": {"commit": False},
    "html": {"status": 200, "commit": True},
    "interim": {"count": 100, "commit": True},
    "late_commit": {"seconds": 30.0, "reset": False},
    "long_header": {"size": 16_384},
    "many_headers": {"count": 200},
    "rate_limit": {"retry_after": 1, "commit": False},
    "redirect": {"location": "https://files.example.com/elsewhere", "status": 302, "commit": False},
    "slow_loris": {"interval": 1.0, "where": "body"},
    "status": {
        "status": 500,
        "body": None,
        "headers": None,
        "html": False,
        "envelope": True,
        "retry_after": None,
        "commit": False,
    },
    "success_false": {"code": 1, "message": None, "commit": False},
    "too_large": {"size": 9 * 1024 * 1024},
    "truncate": {"chunked": False, "keep": 0.5},
    "wrong_customer": {"external_id": "somebody-else"},
}
"""Fault kind -> its arguments and what they are when left out. Kinds that are not here take none.

`field`, which has to be given to `drop_field`, is a dotted path inside `data` (`pricefix.remaining`, `items.0.sku`).
In a list, `*` or leaving the place out means every row; rows of a page count as such a list. Where an answer has no
such field, nothing is dropped.
"""


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
    """

    kind: FaultKind
    method: str | None
    path: str | None
    times: int | None
    after: int
    before_auth: bool
    args: Mapping[str, Any]
    hits: int = 0
    _seen: int = 0
    _removed: bool = False
    _script: "Faults | None" = field(default=None, repr=False, alias="script")
    _waiting: list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]] = field(
        factory=list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]], repr=False
    )

    @property
    def waiting(self) -> int:
        """How many requests hang in this fault right now."""
        return sum(not future.done() for _, future in list(self._waiting))

    def remove(self) -> None:
        """End the fault; requests that hang in it go on. From any thread, and more than once."""
        self._removed = True
        if self._script is not None:
            self._script.discard(self)
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

    def strikes(self, method: str, path: str) -> bool:
        """Tell whether this request is hit, and count it."""
        if self.method not in (None, method) or not (self.path is None or fnmatchcase(path, self.path)):
            return False
        self._seen += 1
        return self._seen > self.after and (self.times is None or self.hits < self.times)


def _release(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Faults:
    """The script of what goes wrong. Every call works from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self._script)

    def add(
        self,
        kind: FaultKind,
        *,
        method: str | None = None,
        path: str | None = None,
        times: int | None = 1,
        after: int = 0,
        before_auth: bool = False,
        **args: Any,
    ) -> Fault:
        """Add a fault. Of several that fit a request, the one added first strikes.

        Args:
            kind: see `FaultKind`.
            method: only requests with this HTTP method.
            path: only paths like this shell pattern, as in `*/complete/*`; the query is not looked at.
            times: how often it strikes; None for ever.
            after: how many matching requests to let pass first.
            before_auth: strike before the digest is looked at.
            args: the kind's own arguments, see `ARGUMENTS`.

        Raises:
            ValueError: there is no such kind, or `field` is no path.
            TypeError: the kind does not take one of `args`.
        """
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind!r}; there are {', '.join(KINDS)}")
        known = ARGUMENTS.get(kind, {})
        if unknown := set(args) - set(known):
            raise TypeError(f"{kind} takes no {', '.join(sorted(unknown))}")
        name = args.get("field", known.get("field", "-"))
        if not isinstance(name, str) or not all(name.split(".")):
            raise ValueError(f"{kind} needs field= with a dotted path, such as 'paid_total' or 'items.*.sku'")
        method = method.upper() if method else None
        fault = Fault(kind, method, path, times, after, before_auth, {**known, **args}, script=self)
        with self._lock:
            self._script = (*self._script, fault)
        return fault

    def all(self) -> tuple[Fault, ...]:
        """Return the faults that are armed, in the order in which they strike."""
        return self._script

    def clear(self) -> None:
        """Remove every fault; requests that hang go on."""
        for fault in self._script:
            fault.remove()

    def discard(self, fault: Fault) -> None:
        """Take a fault off the script."""
        with self._lock:
            self._script = tuple(one for one in self._script if one is not fault)

    def strike(self, method: str, path: str, *, before_auth: bool) -> Fault | None:
        """Return the fault that hits this request, if any."""
        chosen: Fault | None = None
        with self._lock:
            for fault in self._script:
                if fault.before_auth is before_auth and fault.strikes(method, path) and chosen is None:
                    chosen = fault
                    fault.hits += 1
        return chosen
