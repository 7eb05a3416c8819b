"""Builds the error for an unsuccessful response: class by status, texts and fields from the body. No I/O."""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Final, cast
from urllib.parse import quote

from minted_connect.core.exact_json import Malformed, loads
from minted_connect.core.headers import retry_after
from minted_connect.core.redact import redact, shorten
from minted_connect.core.request import Request
from minted_connect.errors import (
    APIError,
    AuthenticationFailed,
    BadRequest,
    Conflict,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    ValidationFailed,
)
from minted_connect.secret import Secret

__all__ = ["make_api_error", "mask_text", "read_error_document"]

_BY_STATUS: Final[Mapping[int, type[APIError]]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    422: ValidationFailed,
    429: RateLimited,
}
_MAX_TEXT: Final = 2_000
_TAG: Final = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def read_error_document(body: bytes, max_depth: int) -> Any:
    """Parse the body of an error response; return its text without tags if it is not JSON."""
    try:
        return loads(body, max_depth=max_depth)
    except Malformed:
        return " ".join(_TAG.sub(" ", body[:_MAX_TEXT].decode("utf-8", "replace")).split())


def make_api_error(
    status: int,
    headers: Mapping[str, str],
    document: Any,
    *,
    request: Request,
    secrets: Iterable[Secret],
    refused_digest: bool,
    now: Callable[[], datetime],
) -> APIError:
    """Build the error for a 4xx or 5xx response, or for a 2xx response whose `success` is false.

    Args:
        status: HTTP status.
        headers: Case-insensitive headers.
        document: The body, as `read_error_document` returns it.
        request: The request. Its values are masked in the text of the error.
        secrets: Masked too.
        refused_digest: See `RawResponse.refused_digest`.
        now: The client's wall clock, used for a `Retry-After` date if the response has no `Date`.
    """

    def mask(text: str) -> str:
        return mask_text(text, request, secrets)

    envelope = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    # A `code` proves that the vendor itself refused, and completions rely on it. Gateways send JSON with a `code` too,
    # so only that of an envelope with `success: false` counts.
    code = envelope.get("code") if envelope.get("success") is False else None
    text = document if isinstance(document, str) else envelope.get("message")
    message = mask(text) if isinstance(text, str) else ""
    error_class = APIError if status // 100 == 2 else _BY_STATUS.get(status, APIError)  # noqa: PLR2004 - 2xx
    shown = message
    error: APIError
    if error_class is ValidationFailed:
        fields = _mask_fields(_fields(document, message), request, mask)
        error = ValidationFailed("", fields=fields)
        shown = "; ".join([": ".join(filter(None, (name, *texts))) for name, texts in fields.items()])
    elif error_class is AuthenticationFailed:
        error = AuthenticationFailed("", refused_digest=refused_digest)
    elif status // 100 == 5:  # noqa: PLR2004 - 5xx
        error = ServerError("")
    else:
        error = error_class("")
    error.retry_after = retry_after(headers, now)
    error.code = code if isinstance(code, int) and not isinstance(code, bool) else None
    error.message = message
    # The texts of an envelope are shown. A page of a gateway is not, because it may hold anything.
    error.reason = (shorten(shown) if envelope else "") or _phrase(status)
    return error


def mask_text(text: str, request: Request, secrets: Iterable[Secret]) -> str:
    """Return a text of the server as one short line without personal data, secrets, and values of the request."""
    return redact(text, chain((secret.reveal() for secret in secrets), _sent_texts(request)))


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def _sent_texts(request: Request) -> Iterator[str]:
    for value in (*request.params, *(value for _, value in request.query)):
        yield str(value)
        yield quote(str(value), safe="")
    yield from (request.headers or {}).values()
    yield from _strings(request.body)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[str, Any]", value).values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in cast("Iterable[Any]", value):
            yield from _strings(item)


# --- messages by field, in each of the forms that servers use ------------------------------------------------------


def _fields(document: Any, message: str) -> dict[str, tuple[str, ...]]:
    """Return messages by field; key ``""`` for texts without a field, or for `message` if nothing else is found."""
    found: dict[str, list[str]] = {}
    if isinstance(document, dict):
        envelope = cast("dict[str, Any]", document)
        _collect(found, "", envelope.get("errors"))
        data = envelope.get("data")
        if isinstance(data, dict):
            nested = cast("dict[str, Any]", data)
            if "errors" in nested:
                _collect(found, "", nested["errors"])
            elif all(isinstance(value, str | list) for value in nested.values()):
                _collect(found, "", nested)
    else:
        _collect(found, "", document)
    if not found and message:
        found[""] = [message]
    return {name: tuple(texts) for name, texts in found.items()}


def _collect(found: dict[str, list[str]], name: str, value: Any) -> None:
    if isinstance(value, str):
        if value:
            found.setdefault(name, []).append(value)
    elif isinstance(value, dict):
        for part, item in cast("dict[str, Any]", value).items():
            _collect(found, _join(name, part), item)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            if isinstance(item, dict) and "message" in item:
                entry = cast("dict[str, Any]", item)
                _collect(found, _join(name, entry.get("field")), entry["message"])
            else:
                _collect(found, name, item)
    elif name:
        # The field is named, but without a message.
        found.setdefault(name, [])


def _mask_fields(
    fields: Mapping[str, tuple[str, ...]], request: Request, mask: Callable[[str], str]
) -> dict[str, tuple[str, ...]]:
    """Mask the messages, and the names except those of fields that were sent: a server can write a value as a name."""
    sent = {*_keys(request.body), *(name for name, _ in request.query)}
    masked: dict[str, tuple[str, ...]] = {}
    for name, texts in fields.items():
        shown = name if sent.issuperset(name.split(".")) else mask(name)
        masked[shown] = masked.get(shown, ()) + tuple(mask(text) for text in texts)
    return masked


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[str, Any]", value).items():
            yield name
            yield from _keys(item)
    elif isinstance(value, list | tuple):
        for item in cast("Iterable[Any]", value):
            yield from _keys(item)


def _join(name: str, part: Any) -> str:
    return ".".join(filter(None, (name, part))) if isinstance(part, str) else name
