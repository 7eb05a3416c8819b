"""One answer in, its data out, or the right error: pure, and nothing but the error tree comes out of it."""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, cast
from urllib.parse import quote

import attrs

from minted_connect.core.exact_json import Malformed, loads
from minted_connect.core.headers import http_date
from minted_connect.core.redact import redact
from minted_connect.core.request import Request
from minted_connect.errors import (
    APIError,
    AuthenticationFailed,
    BadRequest,
    Conflict,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ServerError,
    UnexpectedRedirect,
    ValidationFailed,
)
from minted_connect.secret import Secret

__all__ = ["RawResponse", "Response", "parse_response"]


_BY_STATUS: Final[Mapping[int, type[APIError]]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    422: ValidationFailed,
    429: RateLimited,
}
_NO_CONTENT: Final = 204
_REQUEST_ID_HEADERS: Final = ("X-Request-Id", "X-Correlation-Id", "Request-Id")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_SECONDS: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_LONGEST_WAIT: Final = 365 * 86_400.0
_LONGEST_TEXT: Final = 2_000
_TAG: Final = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@attrs.frozen
class RawResponse:
    """One completed HTTP answer."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    """Case-insensitive."""
    body: bytes = attrs.field(repr=False)
    """After decompression."""
    refused_digest: bool = False
    """Whether it is a 401 with a Digest challenge of this server's realm, to a request with a correct digest."""


@attrs.frozen
class Response:
    """One successful answer, out of its envelope."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    """Case-insensitive."""
    data: Any = attrs.field(repr=False)
    """Parsed JSON: fractions are exact Decimals."""
    request_id: str | None = None
    """The server's name for this exchange, if it gave one."""
    sent_at: float | None = attrs.field(default=None, repr=False, eq=False)
    """When the request went out, on the client's monotonic clock."""
    attempts: int = 1
    """How many attempts it took."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def parse_response(
    raw: RawResponse,
    *,
    request: Request,
    attempts: int = 1,
    max_depth: int = 64,
    keep_body: bool = False,
    secrets: Iterable[Secret] = (),
    sent_at: float | None = None,
    now: Callable[[], datetime] = _utc_now,
) -> Response:
    """Return what stands in the envelope ``{data, success, code, message}`` of an answer.

    An answer is good if its status is 2xx and its `success` is true; 204 has no body and means no data.

    Args:
        raw: The answer.
        request: What it answers; names the route in errors, and its values are masked in them.
        attempts: How many attempts were made.
        max_depth: Deepest nesting of the JSON.
        keep_body: Keep the raw body on errors.
        sent_at: When the request went out, in monotonic seconds.
        secrets: Masked in the texts of errors, as everything is that was sent.
        now: The time of day, to read a `Retry-After` date against if the answer has no `Date`.

    Raises:
        APIError: the server said no: the class of the status, or `APIError` itself.
        ProtocolError: a 2xx without a proper envelope, or a status that is no answer.
        UnexpectedRedirect: 3xx.
    """
    request_id = _request_id(raw.headers)
    failure: APIError | ProtocolError
    if raw.status // 100 == 2:  # noqa: PLR2004 - as statuses are spoken of
        if raw.status == _NO_CONTENT:
            return Response(raw.status, raw.headers, None, request_id, sent_at, attempts)
        try:
            document = loads(raw.body, max_depth=max_depth)
        except Malformed as malformed:
            failure = _untrusted((f"body: {malformed}",))
        else:
            problems = _problems(document)
            if not problems and document["success"]:
                return Response(raw.status, raw.headers, document["data"], request_id, sent_at, attempts)
            failure = _untrusted(problems) if problems else _denied(raw, document, request, secrets, now)
    elif raw.status // 100 in {4, 5}:
        failure = _denied(raw, _tolerant(raw.body, max_depth), request, secrets, now)
    elif raw.status // 100 == 3:  # noqa: PLR2004
        failure = UnexpectedRedirect("redirects are never followed")
    else:
        failure = _untrusted(("status: is not one of an answer",))
    failure.reason = f"{raw.status} {failure.reason}".rstrip()
    failure.status, failure.request_id = raw.status, request_id
    failure.body = raw.body if keep_body else None
    raise failure


def _untrusted(problems: tuple[str, ...]) -> ProtocolError:
    return ProtocolError(f"an answer that cannot be trusted: {'; '.join(problems)}", problems)


def _problems(document: Any) -> tuple[str, ...]:
    """Return what keeps a document from being an envelope; a no needs no `data`."""
    if not isinstance(document, dict):
        return ("body: must be an object",)
    envelope = cast("dict[str, Any]", document)
    if "success" not in envelope:
        return ("success: required field missing",)
    # Whether it was a success is not a matter of interpretation.
    if not isinstance(envelope["success"], bool):
        return ("success: must be true or false",)
    return () if "data" in envelope or not envelope["success"] else ("data: required field missing",)


def _tolerant(body: bytes, max_depth: int) -> Any:
    """Return the document of an error, or its bare text: the status has already said what matters."""
    try:
        return loads(body, max_depth=max_depth)
    except Malformed:
        return " ".join(_TAG.sub(" ", body[:_LONGEST_TEXT].decode("utf-8", "replace")).split())


def _denied(
    raw: RawResponse, document: Any, request: Request, secrets: Iterable[Secret], now: Callable[[], datetime]
) -> APIError:
    def masked(text: str) -> str:
        return redact(text, chain((secret.reveal() for secret in secrets), _sent(request)))

    envelope = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    if isinstance(document, str):
        # The page of something on the way: a body, of which an error holds no more than a line fit to be shown.
        document = masked(document)
    # A `code` proves that the vendor itself said no: completions rely on it. Gateways send JSON with codes too.
    code = envelope.get("code") if envelope.get("success") is False else None
    said = document if isinstance(document, str) else envelope.get("message")
    message = said if isinstance(said, str) else ""
    kind = APIError if raw.status // 100 == 2 else _BY_STATUS.get(raw.status, APIError)  # noqa: PLR2004
    shown = message
    error: APIError
    if kind is ValidationFailed:
        fields = _fields(document, message)
        error = ValidationFailed("", fields=fields)
        shown = "; ".join([": ".join(filter(None, (name, *texts))) for name, texts in fields.items()])
    elif kind is AuthenticationFailed:
        error = AuthenticationFailed("", refused_digest=raw.refused_digest)
    elif raw.status // 100 == 5:  # noqa: PLR2004
        error = ServerError("")
    else:
        error = kind("")
    error.retry_after = _retry_after(raw.headers, now)
    error.code = code if isinstance(code, int) and not isinstance(code, bool) else None
    error.message = message
    # Words of the vendor's own fields are shown, masked; a page of something else on the way may hold anything.
    error.reason = (masked(shown) if envelope else "") or _phrase(raw.status)
    return error


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def _sent(request: Request) -> Iterator[str]:
    for value in (*request.params, *(value for _, value in request.query)):
        yield str(value)
        yield quote(str(value), safe="")
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


# --- the many ways to say which field is wrong -------------------------------------------------------------------


def _fields(document: Any, message: str) -> dict[str, tuple[str, ...]]:
    """Return messages by field; what names no field, or the message if there is nothing else, stands under ``""``."""
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
            _collect(found, _joined(name, part), item)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            if isinstance(item, dict) and "message" in item:
                entry = cast("dict[str, Any]", item)
                _collect(found, _joined(name, entry.get("field")), entry["message"])
            else:
                _collect(found, name, item)
    elif name:
        # A field is named, if without a word.
        found.setdefault(name, [])


def _joined(name: str, part: Any) -> str:
    return ".".join(filter(None, (name, part))) if isinstance(part, str) else name


# --- headers -----------------------------------------------------------------------------------------------------


def _request_id(headers: Mapping[str, str]) -> str | None:
    for name in _REQUEST_ID_HEADERS:
        value = headers.get(name)
        if value is not None and _REQUEST_ID.fullmatch(value):
            return value
    return None


def _retry_after(headers: Mapping[str, str], now: Callable[[], datetime]) -> float | None:
    """Return the seconds to wait: finite, not below 0; None if the server did not say or cannot be understood."""
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return min(max(0.0, float(value)), _LONGEST_WAIT)
    until = http_date(value)
    if until is None:
        return None
    # Against the server's own clock, where it shows it: ours may be wrong.
    since = http_date(headers.get("Date", "")) or now()
    return min(max(0.0, (until - since).total_seconds()), _LONGEST_WAIT)
