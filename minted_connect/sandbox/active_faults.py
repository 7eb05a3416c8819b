"""The list of faults that were added to a sandbox. `fault_injection` runs them.

The faults themselves are defined in `fault_effects` and `fault_response_edits`; `fault_registry` says how to add one.
"""

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from . import fault_effects, fault_response_edits  # both register their faults
from .fault_arguments import HttpMethod, Pattern, Skipped, Times, arguments_of
from .fault_handle import Fault, FaultKind
from .fault_registry import REGISTRY, faults_table

__all__ = ["ARGUMENTS", "KINDS", "Fault", "FaultKind", "Faults", "faults_table"]

del fault_effects, fault_response_edits

KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {kind: {one.name: one.default for one in found.arguments.values()} for kind, found in REGISTRY.items()}
)
"""Fault kind -> its arguments and their defaults."""


class Faults:
    """The faults of a sandbox. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()
        self._in_flight: set[Fault] = set()

    def __len__(self) -> int:
        return len(self._faults)

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
        """Add a fault. If several faults match a request, the one that was added first is applied.

        Args:
            kind: the kind of fault, see `faults_table()`.
            method: match only requests with this HTTP method.
            path: match only paths with this shell pattern, such as `*/complete/*`, without the query.
            times: how many requests it is applied to; None for no limit.
            after: how many matching requests to skip first.
            before_auth: apply it before the digest is verified.
            args: the arguments of the kind, see `ARGUMENTS`.

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
            self._faults = (*self._faults, fault)
        return fault

    def all(self) -> tuple[Fault, ...]:
        """Return the faults that were not removed, in the order in which they were added."""
        return self._faults

    def clear(self) -> None:
        """Remove all faults; requests that wait in one continue."""
        for fault in self._faults:
            fault.remove()

    def discard(self, fault: Fault) -> None:
        """Take a fault off the list."""
        with self._lock:
            self._faults = tuple(one for one in self._faults if one is not fault)

    def match(self, method: str, path: str, *, before_auth: bool) -> Fault | None:
        """Return the fault to apply to this request, if any, and count it in flight until `finish` is called."""
        chosen: Fault | None = None
        with self._lock:
            for fault in self._faults:
                if fault.before_auth is before_auth and fault.count_match(method, path) and chosen is None:
                    chosen = fault
                    fault.hits += 1
                    fault.in_flight += 1
                    self._in_flight.add(fault)
        return chosen

    def finish(self, fault: Fault) -> None:
        """Count a request as no longer in flight: it was executed, or it never will be."""
        with self._lock:
            fault.in_flight -= 1
            if not fault.in_flight:
                self._in_flight.discard(fault)

    @property
    def latest_landing(self) -> float | None:
        """Maximum time in seconds from accepting a request to executing it; None if unbounded.

        Considers all faults that were not removed and all requests in flight. A `late_commit` that was applied `times`
        times counts until it is removed.
        """
        with self._lock:
            faults = {*self._faults, *self._in_flight}
        latest = 0.0
        for fault in faults:
            get_delay = REGISTRY[fault.kind].execution_delay
            seconds = get_delay(fault.args) if get_delay is not None else 0.0
            if seconds is not None:
                latest = max(latest, seconds)
            elif fault.is_armed or fault.in_flight:
                return None
        return latest


_COMMON = arguments_of(Faults.add)
