"""Builds a request from a method and a path given by the user. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final, cast
from urllib.parse import unquote

from minted_connect import validation
from minted_connect.core.exact_json import dumps
from minted_connect.core.request import OPERATIONS, Effect, EvidenceLevel, Operation, Request
from minted_connect.errors import ConfigurationError, InvalidInput

__all__ = ["changed_customer", "make_raw_request"]

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
"""The characters that RFC 3986 section 3.3 allows in a path."""
_CUSTOMER: Final = "external_customer_id"


def make_raw_request(
    method: str, path: str, query: Mapping[str, str] | None, json: Any, corrected_paths: Mapping[str, str]
) -> Request:
    """Validate the arguments of `AsyncMintedConnect.request`, and build the request.

    Raises:
        ConfigurationError: if the path is that of Complete Buy, Sell or Delivery.
        InvalidInput: if an argument cannot be sent.
    """
    verb = validation.text("method", method).upper()
    if verb not in _METHODS:
        raise InvalidInput.of("method", f"must be one of {', '.join(sorted(_METHODS))}")
    decoded = unquote(validation.text("path", path))
    if not _PATH.fullmatch(path) or not decoded.isprintable():
        raise InvalidInput.of("path", "must be an absolute, percent-encoded path; pass the query as `query`")
    if not set(decoded.split("/")[1:-1]).isdisjoint({"", ".", ".."}) or decoded.endswith(("/.", "/..")):
        raise InvalidInput.of("path", "must not contain empty or dot segments")
    _check_not_completion(decoded, corrected_paths)
    _check_query(query)
    _check_json(json)
    effect = Effect.READ if verb == "GET" else Effect.NON_IDEMPOTENT
    operation = Operation("request", verb, path, effect, EvidenceLevel.INFERRED, "raw request")
    return Request(operation, query=tuple((query or {}).items()), body=json)


def changed_customer(request: Request) -> str | None:
    """Return the id of the customer whose basket a raw request may change, None for a read or without an id."""
    if request.operation.effect is Effect.READ:
        return None
    body: Mapping[str, Any] = request.body if isinstance(request.body, Mapping) else {}
    customer = body.get(_CUSTOMER, dict(request.query).get(_CUSTOMER))
    return customer if isinstance(customer, str) else None


def _check_not_completion(path: str, corrected_paths: Mapping[str, str]) -> None:
    for operation in OPERATIONS.values():
        known = {operation.path.casefold(), corrected_paths.get(operation.name, operation.path).casefold()}
        if operation.effect is Effect.COMPLETE and path.rstrip("/").casefold() in known:
            raise ConfigurationError(f"request: use {operation.name}, which never completes a basket twice")


def _check_query(query: object) -> None:
    if query is None:
        return
    if not isinstance(query, Mapping):
        raise InvalidInput.of("query", f"must be a mapping of strings, not {type(query).__name__}")
    for text in chain.from_iterable(cast("Mapping[object, object]", query).items()):
        if not isinstance(text, str):
            raise InvalidInput.of("query", f"must contain strings only, as names and values, not {type(text).__name__}")


def _check_json(json: Any) -> None:
    try:
        dumps(json)
    except (InvalidInput, TypeError, ValueError, RecursionError):
        pass
    else:
        return
    # Raised outside the handler, because the exception in `__context__` could show parts of the body.
    raise InvalidInput.of(
        "json", "must contain dict, list, valid str, int, bool, None and finite Decimal only; use Decimal for a float"
    )
