"""The operations of the API, and requests to them. No I/O.

The client takes the method and path of each operation from `OPERATIONS`, and `Options.paths` can correct a path.
Defined elsewhere: fields of queries and bodies (`resources`, `completion`), fields of responses (`models`), the
blocking methods (`blocking.client`), the alternative paths that `minted verify` tries (`verify.probes`), and the
sandbox's routes (`sandbox.router`). The guide `guides/adding-an-operation.md` lists them all.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import attrs

from minted_connect.errors import ConfigurationError, Effect, InvalidInput, RequestInfo

__all__ = ["OPERATIONS", "Effect", "EvidenceLevel", "Operation", "Request", "check_paths", "path_segment"]

_PLACEHOLDER = "{}"
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]*")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/{}-]*")


class EvidenceLevel(enum.StrEnum):
    """The extent to which the vendor's documentation describes an operation."""

    DOCUMENTED = "documented"
    PARTLY = "partly documented"
    INFERRED = "inferred"


@attrs.frozen
class Operation:
    """One operation of the API."""

    name: str
    method: str
    path: str
    """Template: each ``{}`` stands for one parameter."""
    effect: Effect
    evidence: EvidenceLevel
    title: str
    """Name of the operation in the vendor's documentation."""

    @property
    def info(self) -> RequestInfo:
        """The operation as errors show it."""
        return RequestInfo(self.method, self.path, self.effect)


def _table(*rows: Operation) -> Mapping[str, Operation]:
    return {row.name: row for row in rows}


_DOC, _PARTLY, _INF = EvidenceLevel.DOCUMENTED, EvidenceLevel.PARTLY, EvidenceLevel.INFERRED
_READ, _IDEMPOTENT, _NON_IDEMPOTENT, _COMPLETE = Effect.READ, Effect.IDEMPOTENT, Effect.NON_IDEMPOTENT, Effect.COMPLETE
_BASKET = "/partner/walletable/basket"

OPERATIONS: Final = _table(
    Operation("customers.create", "POST", "/partner/customer", _NON_IDEMPOTENT, _DOC, "Create Customer"),
    Operation("customers.get", "GET", "/partner/customer/{}", _READ, _PARTLY, "Get Customer"),
    Operation("customers.update", "PATCH", "/partner/customer/{}", _IDEMPOTENT, _PARTLY, "Update Customer"),
    Operation("customers.remove", "DELETE", "/partner/customer/{}", _IDEMPOTENT, _INF, "Remove Customer Id"),
    Operation("products.page", "GET", "/partner/walletable/products", _READ, _INF, "Get Products"),
    Operation("baskets.get_active", "GET", _BASKET, _READ, _PARTLY, "Get Active Basket"),
    Operation("baskets.add_item", "POST", _BASKET, _NON_IDEMPOTENT, _PARTLY, "Create Basket / Add Basket Item"),
    Operation("baskets.update_item", "PATCH", _BASKET, _IDEMPOTENT, _DOC, "Update Basket Item"),
    Operation("baskets.delete_item", "DELETE", _BASKET, _IDEMPOTENT, _PARTLY, "Delete Basket Item"),
    Operation("baskets.clear", "DELETE", f"{_BASKET}/empty", _IDEMPOTENT, _INF, "Clear Basket"),
    Operation("complete.buy", "POST", "/partner/walletable/complete/buy", _COMPLETE, _PARTLY, "Complete Buy"),
    Operation("complete.sell", "POST", "/partner/walletable/complete/sell", _COMPLETE, _INF, "Complete Sell"),
    Operation(
        "complete.delivery",
        "POST",
        "/partner/walletable/complete/delivery",
        _COMPLETE,
        _PARTLY,
        "Complete Delivery",
    ),
    Operation("orders.page", "GET", "/partner/walletable/orders", _READ, _PARTLY, "Get Orders"),
    Operation("orders.invoice", "GET", "/partner/order/{}/invoice", _READ, _PARTLY, "Get Order Invoice"),
    Operation("orders.receipt", "GET", "/partner/walletable/receipt", _READ, _INF, "Receipt"),
    Operation("wallet.balance", "GET", "/partner/walletable/balance", _READ, _PARTLY, "Balance / Wallet"),
    Operation("rates.current", "GET", "/partner/walletable/rates", _READ, _INF, "Currency Rates"),
    Operation("rates.history", "GET", "/partner/walletable/rates/history", _READ, _INF, "Rate History"),
)
"""All 19 operations, by the name of the client method that sends them."""


def check_paths(paths: Mapping[str, str]) -> Mapping[str, str]:
    """Validate corrected paths, and return a copy.

    Raises:
        ConfigurationError: if a name is not that of an operation, or if a path is not absolute, holds a query, ``..``
            or ``//``, or has another number of parameters.
    """
    for name, path in paths.items():
        operation = OPERATIONS.get(name)
        if operation is None:
            raise ConfigurationError(f"Options.paths: no operation is called {name!r}")
        if not _PATH.fullmatch(path) or ".." in path or "//" in path:
            raise ConfigurationError(f"Options.paths[{name!r}]: must be a plain absolute path")
        if path.count(_PLACEHOLDER) != operation.path.count(_PLACEHOLDER):
            raise ConfigurationError(
                f"Options.paths[{name!r}]: must take {operation.path.count(_PLACEHOLDER)} parameter(s) as {{}}"
            )
    return dict(paths)


def path_segment(value: str, field: str) -> str:
    """Percent-encode one path parameter, so that it stays a single segment (RFC 3986 section 3.3).

    Raises:
        InvalidInput: if `value` is empty, a dot segment, or holds an unprintable character.
    """
    if not value:
        raise InvalidInput.of(field, "must not be empty")
    if value in {".", ".."}:
        raise InvalidInput.of(field, "must not be a dot segment")
    if not value.isprintable():
        raise InvalidInput.of(field, "must be printable")
    return quote(value, safe="")


def _quoted(value: str) -> str:
    # Most values need no quoting, and the pattern shows this in a fifth of the time that `quote` takes.
    return value if _UNRESERVED.fullmatch(value) else quote(value, safe="")


@attrs.frozen(slots=False)  # faster to make than a frozen class with slots
class Request:
    """A request to one operation: path parameters, query, JSON body."""

    operation: Operation
    params: tuple[str, ...] = attrs.field(default=(), repr=False)
    query: Sequence[tuple[str, str]] = attrs.field(default=(), repr=False)
    body: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    """Headers in addition to those of every request."""

    @property
    def effect(self) -> Effect:
        """The effect of repeating the request."""
        return self.operation.effect

    @property
    def route(self) -> str:
        """The path template, for errors and logs; ``(raw)`` for a request made with `client.request`."""
        return self.operation.path if self.operation.name in OPERATIONS else "(raw)"

    @property
    def info(self) -> RequestInfo:
        """The request as errors show it."""
        return RequestInfo(self.operation.method, self.route, self.effect)

    def target(self, paths: Mapping[str, str]) -> str:
        """Return path and query, percent-encoded as they are sent and signed.

        Args:
            paths: Corrected path by operation.

        Raises:
            InvalidInput: if a parameter cannot be part of a path or a query.
        """
        path = paths.get(self.operation.name, self.operation.path)
        for value in self.params:
            path = path.replace(_PLACEHOLDER, path_segment(value, "id"), 1)
        if not self.query:
            return path
        try:
            return f"{path}?{'&'.join([f'{_quoted(name)}={_quoted(value)}' for name, value in self.query])}"
        except UnicodeEncodeError:
            raise InvalidInput.of("query", "must be valid Unicode") from None
