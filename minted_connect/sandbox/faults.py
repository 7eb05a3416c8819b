"""The script of faults: what goes wrong, for which requests, and how often."""

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from . import fault_effects, response_edits  # both register their faults
from .fault_arguments import HttpMethod, Pattern, Skipped, Times, arguments_of
from .fault_handle import Fault, FaultKind
from .fault_registry import REGISTRY, faults_table

__all__ = ["ARGUMENTS", "KINDS", "Fault", "FaultKind", "Faults", "faults_table"]

del fault_effects, response_edits

KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {kind: {one.name: one.default for one in found.arguments.values()} for kind, found in REGISTRY.items()}
)
"""Fault kind -> its arguments and what they are when left out."""


class Faults:
    """The script of what goes wrong. Every call works from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: tuple[Fault, ...] = ()
        self._in_flight: set[Fault] = set()

    def __len__(self) -> int:
        return len(self._script)

    def add(
        self,
        kind: FaultKind,
        *,
        method: HttpMethod | None = None,
        path: Pattern | None = None,
        times: Times | None = 1,
        after: Skipped = 0,
        before_auth: bool = False,
        **args: Any,
    ) -> Fault:
        """Add a fault. Of several that fit a request, the one added first strikes.

        Args:
            kind: see `faults_table()`.
            method: only requests with this HTTP method.
            path: only paths like this shell pattern, as in `*/complete/*`; the query is not looked at.
            times: how often it strikes; None for ever.
            after: how many matching requests to let pass first.
            before_auth: strike before the digest is looked at.
            args: the kind's own arguments, see `ARGUMENTS`.

        Raises:
            ValueError: if there is no such kind, or an argument is out of bounds.
            TypeError: if the kind does not take one of `args`, or an argument has a wrong type.
        """
        try:
            found = REGISTRY[kind]
        except (KeyError, TypeError):
            raise ValueError(f"kind: no such fault; there are {', '.join(KINDS)}") from None
        given: dict[str, Any] = {
            "method": method,
            "path": path,
            "times": times,
            "after": after,
            "before_auth": before_auth,
        }
        common: dict[str, Any] = {name: _COMMON[name].check(value, kind) for name, value in given.items()}
        fault = Fault(kind, **common, args=MappingProxyType(found.check(args)), discard=self.discard)
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

    def match(self, method: str, path: str, *, before_auth: bool) -> Fault | None:
        """Return the fault that hits this request, if any; call `finish` once the request is done with it."""
        chosen: Fault | None = None
        with self._lock:
            for fault in self._script:
                if fault.before_auth is before_auth and fault.matches(method, path) and chosen is None:
                    chosen = fault
                    fault.hits += 1
                    fault.in_flight += 1
                    self._in_flight.add(fault)
        return chosen

    def finish(self, fault: Fault) -> None:
        """Note that a request which the fault struck is executed, or never will be."""
        with self._lock:
            fault.in_flight -= 1
            if not fault.in_flight:
                self._in_flight.discard(fault)

    @property
    def latest_landing(self) -> float | None:
        """The longest time, in seconds, after which an accepted request may still be executed; None if unbounded.

        Counts all faults in the script, used-up ones too, and all requests in flight.
        """
        with self._lock:
            faults = {*self._script, *self._in_flight}
        latest = 0.0
        for fault in faults:
            landing = REGISTRY[fault.kind].landing
            seconds = landing(fault.args) if landing is not None else 0.0
            if seconds is not None:
                latest = max(latest, seconds)
            elif fault.is_armed or fault.in_flight:
                return None
        return latest


_COMMON = arguments_of(Faults.add)
