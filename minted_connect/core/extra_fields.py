"""Headers, query parameters and body fields that `with_options` adds to requests. No I/O."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import attrs

from minted_connect.core.exact_json import dumps
from minted_connect.core.request import Request
from minted_connect.errors import ConfigurationError, InvalidInput
from minted_connect.validation import HEADER_NAME, check_header, check_type

__all__ = ["ExtraFields", "add_extra_fields"]

_MAX_NAME: Final = 200
_MAX_HEADER: Final = 4096
_PREFIXES: Final = {
    "content-": "describes the body",
    "proxy-": "belongs to the connection to a proxy",
    "sec-": "belongs to the connection",
}
_HEADERS: Final = {
    **dict.fromkeys(("authorization", "cookie", "cookie2"), "authenticates the request"),
    **dict.fromkeys(("idempotency-key", "x-idempotency-key"), "is sent by completions only"),
    **dict.fromkeys(("host", "accept", "user-agent", "api-version"), "is sent with every request"),
    "accept-encoding": "is sent with every request",
    "accept-language": "is the argument `language`",
    "x-client-id": "is the argument `client_id`",
    **dict.fromkeys(
        ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "early-data"),
        "belongs to the connection",
    ),
    **dict.fromkeys(
        (
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
            "x-original-method",
            "x-original-url",
            "x-original-uri",
            "x-rewrite-url",
            "x-forwarded-prefix",
            "x-forwarded-host",
        ),
        "can make the server execute another operation",
    ),
}
"""Headers that must not be added, in lower case, and why."""
_FIELDS: Final = {
    "_method": "can make the server execute another operation",
    "external_customer_id": "is an argument of the operations that send it",
}
"""Names that must not be added to query or body, and why."""


@attrs.frozen
class ExtraFields:
    """Additions to every request of a client, validated."""

    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    query: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    body: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)

    def added_to(self, request: Request, *, is_read_back: bool = False) -> Request:
        """Return a request with these headers, query parameters and body fields.

        Args:
            request: The request of an operation.
            is_read_back: Whether the library sends it to read back a change: then only headers are added.

        Raises:
            InvalidInput: if the operation sends a field of that name itself, or sends no body to add to.
        """
        if is_read_back or not (self.query or self.body):
            return attrs.evolve(request, headers=self.headers)
        name = request.operation.name
        # The body of `client.request` can be any JSON value.
        body: Mapping[str, Any] | None = request.body if isinstance(request.body, Mapping) else None
        if self.body and body is None:
            raise InvalidInput.of("extra_body", f"{name} sends no JSON object to which a field could be added")
        sent = {form for key in (*dict(request.query), *(body or {})) for form in _forms(key)}
        for argument, extra in (("extra_query", self.query), ("extra_body", self.body)):
            if not sent.isdisjoint(form for key in extra for form in _forms(key)):
                raise InvalidInput.of(argument, f"must not contain a name that {name} sends itself")
        return attrs.evolve(
            request,
            headers=self.headers,
            query=(*request.query, *self.query.items()),
            body=request.body if body is None else {**body, **self.body},
        )


def add_extra_fields(
    known: ExtraFields | None, headers: object, query: object, body: object, idempotency_header: str | None
) -> ExtraFields | None:
    """Validate the additions that `with_options` received, and return them; None without additions.

    Args:
        known: The additions of the original client; each argument that is not None replaces a part of them.
        headers: Mapping of names to values, or None.
        query: Mapping of names to values, or None.
        body: Mapping of names to JSON values, or None.
        idempotency_header: `CompletionPolicy.idempotency_header`.

    Raises:
        ConfigurationError: if an addition cannot be sent, or is not allowed.
    """
    known = known or ExtraFields()
    extra = ExtraFields(
        known.headers if headers is None else _checked_headers(headers, idempotency_header),
        known.query if query is None else _checked_query(query),
        known.body if body is None else _checked_body(body),
    )
    return extra if extra.headers or extra.query or extra.body else None


def _checked_headers(value: object, idempotency_header: str | None) -> Mapping[str, str]:
    refused = _HEADERS if idempotency_header is None else {**_HEADERS, idempotency_header.lower(): "is a completion's"}
    headers: dict[str, str] = {}
    for name, text in _pairs("extra_headers", value):
        if not HEADER_NAME.fullmatch(name):
            raise ConfigurationError("extra_headers: each name must be that of a header (RFC 9110 section 5.1)")
        lower, field = name.lower(), f"extra_headers[{name!r}]"
        reason = refused.get(lower) or next((_PREFIXES[prefix] for prefix in _PREFIXES if lower.startswith(prefix)), "")
        if reason:
            raise ConfigurationError(f"{field}: must not be added, because it {reason}")
        if lower in {other.lower() for other in headers}:
            raise ConfigurationError(f"{field}: is given twice, in other letters")
        headers[name] = check_header(field, cast("str", text))
        if len(headers[name]) > _MAX_HEADER:
            raise ConfigurationError(f"{field}: must have at most {_MAX_HEADER} characters")
    return headers


def _checked_query(value: object) -> Mapping[str, str]:
    query: dict[str, str] = {}
    for name, text in _checked_names("extra_query", value):
        check_type(f"extra_query[{name!r}]", text, str)
        query[name] = cast("str", text)
        if not _is_unicode(query[name]):
            raise ConfigurationError(f"extra_query[{name!r}]: must be valid Unicode")
    return query


def _checked_body(value: object) -> Mapping[str, Any]:
    body = dict(_checked_names("extra_body", value))
    for name, content in body.items():
        if not _is_json(content):
            rule = "must be dict, list, valid str, int, bool, None or a finite Decimal; use Decimal for a float"
            raise ConfigurationError(f"extra_body[{name!r}]: {rule}")
    # A copy, because the caller may change nested lists later.
    return copy.deepcopy(body)


def _is_json(value: object) -> bool:
    try:
        dumps(value)
    except (InvalidInput, TypeError, ValueError, RecursionError):
        return False
    return True


def _pairs(argument: str, value: object) -> Iterable[tuple[str, object]]:
    check_type(argument, value, Mapping)
    for name, content in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str):
            raise ConfigurationError(f"{argument}: each name must be str, not {type(name).__name__}")
        yield name, content


def _checked_names(argument: str, value: object) -> Iterable[tuple[str, object]]:
    for name, content in _pairs(argument, value):
        if not name or not name.isprintable() or name != name.strip() or len(name) > _MAX_NAME:
            rule = f"must be printable, 1 to {_MAX_NAME} characters, without spaces around it"
            raise ConfigurationError(f"{argument}: each name {rule}")
        for refused, reason in _FIELDS.items():
            if refused in _forms(name):
                raise ConfigurationError(f"{argument}[{name!r}]: must not be added, because it {reason}")
        yield name, content


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _forms(name: str) -> set[str]:
    """Return the names as which PHP and Laravel may read a name, in lower case.

    PHP reads `a.b`, `a b` and `a_b` as the same name, drops spaces before it, and reads `a[]` as the array `a`; Laravel
    reads `a.b` as `b` of `a`.
    """
    forms: set[str] = set()
    for lower in (name.lower().strip(), name.lower().lstrip()):
        forms |= {lower, re.split(r"[.\[]", lower, maxsplit=1)[0], re.sub(r"[ .]", "_", lower.split("[", 1)[0])}
    return forms - {""}
