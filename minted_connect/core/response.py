"""Reads one HTTP response up to the size limit, and parses it: to the envelope's data or the matching error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, cast

import aiohttp
import attrs
from multidict import CIMultiDictProxy

from minted_connect.core.error_mapping import make_api_error, read_error_document
from minted_connect.core.exact_json import Malformed, loads
from minted_connect.core.failures import attach_request
from minted_connect.core.headers import request_id as find_request_id
from minted_connect.core.request import Request
from minted_connect.errors import APIError, IntegrityError, ProtocolError, RequestInfo, UnexpectedRedirect
from minted_connect.models.introspection import make_introspectable
from minted_connect.response_info import ResponseInfo
from minted_connect.secret import Secret

__all__ = [
    "BodyTooLarge",
    "RawResponse",
    "Response",
    "make_integrity_error",
    "make_schema_error",
    "parse_response",
    "read_body",
]

_NO_CONTENT: Final = 204


@attrs.frozen(slots=False)  # faster to make than a frozen class with slots
class RawResponse:
    """One complete HTTP response."""

    status: int
    headers: CIMultiDictProxy[str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    """Decompressed."""
    refused_digest: bool = False
    """Whether it is a 401 with a Digest challenge of the pinned realm: the server itself rejected the digest."""


@attrs.frozen(slots=False)  # faster to make than a frozen class with slots
class Response(ResponseInfo):
    """One successful response, without its envelope."""

    data: Any = attrs.field(default=None, repr=False)
    """Parsed JSON of the envelope's `data`. Fractions are exact Decimals."""
    sent_at: float | None = attrs.field(default=None, repr=False, eq=False)
    """When the request was sent, in seconds of the client's elapsed clock."""

    @property
    def is_null(self) -> bool:
        """Whether `data` is null, or the `[]` or `""` that PHP may write for a missing object."""
        return self.data is None or self.data in ([], "")


make_introspectable(Response)


class BodyTooLarge(aiohttp.ClientError):
    """The body of a response exceeds `Options.max_body`."""


async def read_body(content: aiohttp.StreamReader, max_size: int) -> bytes:
    """Read the body of a response, decompressed.

    Raises:
        BodyTooLarge: if it has more than `max_size` bytes; the caller closes the connection.
    """
    chunks: list[bytes] = []
    bytes_left = max_size
    # Decompressed bytes are counted chunk by chunk, so that a decompression bomb does not fill the memory.
    while chunk := await content.readany():
        chunks.append(chunk)
        bytes_left -= len(chunk)
        if bytes_left < 0:
            raise BodyTooLarge
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def parse_response(
    raw: RawResponse,
    *,
    request: Request,
    attempts: int = 1,
    elapsed: float = 0.0,
    max_depth: int = 64,
    keep_body: bool = False,
    secrets: Iterable[Secret] = (),
    sent_at: float | None = None,
    now: Callable[[], datetime] = _utc_now,
) -> Response:
    """Parse the envelope ``{data, success, code, message}`` of a response.

    A response is successful if its status is 2xx and its `success` is true. A 204 has no body; its data is None.

    Args:
        raw: The response.
        request: The request. Its values are masked in errors.
        attempts: Number of attempts that were made.
        elapsed: Seconds since the start of the call.
        max_depth: Maximum nesting of the JSON.
        keep_body: Whether errors keep the raw body.
        secrets: Masked in the texts of errors.
        sent_at: When the request was sent, in seconds of the elapsed clock.
        now: The client's wall clock, used for a `Retry-After` date if the response has no `Date`.

    Raises:
        APIError: if the status is 4xx or 5xx (a subclass for most), or `success` is false (`APIError` itself).
        ProtocolError: if a 2xx response has no valid envelope, or the status is below 200 or above 599.
        UnexpectedRedirect: if the status is 3xx.
    """
    request_id = find_request_id(raw.headers)
    failure: APIError | ProtocolError
    if raw.status // 100 == 2:  # noqa: PLR2004 - 2xx
        if raw.status == _NO_CONTENT:
            return Response(raw.status, raw.headers, request_id, attempts, elapsed, None, sent_at)
        try:
            document = loads(raw.body, max_depth=max_depth)
        except Malformed as malformed:
            failure = _invalid((f"body: {malformed}",))
        else:
            problems = _envelope_problems(document)
            if not problems and document["success"]:
                return Response(raw.status, raw.headers, request_id, attempts, elapsed, document["data"], sent_at)
            failure = _invalid(problems) if problems else _api_error(raw, document, request, secrets, now)
    elif raw.status // 100 in {4, 5}:
        failure = _api_error(raw, read_error_document(raw.body, max_depth), request, secrets, now)
    elif raw.status // 100 == 3:  # noqa: PLR2004 - 3xx
        failure = UnexpectedRedirect("redirects are never followed")
    else:
        failure = _invalid(("status: is not a final status",))
    failure.reason = f"{raw.status} {failure.reason}".rstrip()
    failure.status, failure.request_id = raw.status, request_id
    failure.body = raw.body if keep_body else None
    raise failure


def _api_error(
    raw: RawResponse, document: Any, request: Request, secrets: Iterable[Secret], now: Callable[[], datetime]
) -> APIError:
    return make_api_error(
        raw.status,
        raw.headers,
        document,
        request=request,
        secrets=secrets,
        refused_digest=raw.refused_digest,
        now=now,
    )


def _invalid(problems: tuple[str, ...]) -> ProtocolError:
    return ProtocolError(f"invalid response: {'; '.join(problems)}", problems)


def _envelope_problems(document: Any) -> tuple[str, ...]:
    """Return the reasons why a document is not an envelope. Without success, `data` may be missing."""
    if not isinstance(document, dict):
        return ("body: must be an object",)
    envelope = cast("dict[str, Any]", document)
    if "success" not in envelope:
        return ("success: required field missing",)
    # Not converted to bool: a value such as "false" or 0 must not be interpreted.
    if not isinstance(envelope["success"], bool):
        return ("success: must be true or false",)
    return () if "data" in envelope or not envelope["success"] else ("data: required field missing",)


def make_schema_error(
    problems: tuple[str, ...], request: RequestInfo | None, response: Response | None = None
) -> ProtocolError:
    """Build the error for data that does not match its model.

    Args:
        problems: Path and rule of each mismatch.
        request: The request, if it is known.
        response: The response, if it is known.
    """
    text = f"the response does not match the expected schema: {'; '.join(problems[:3])}"
    if response is None:
        error, attempts = ProtocolError(text, problems), 1
    else:
        error, attempts = ProtocolError(text, problems, response.status, response.request_id), response.attempts
    return error if request is None else attach_request(error, request, attempts=attempts)


def make_integrity_error(
    problems: Iterable[str], request: RequestInfo, response: Response | None = None
) -> IntegrityError:
    """Build the error for a response about another customer, basket or order than the requested one.

    Args:
        problems: Path and rule of each problem.
        request: The request.
        response: The response, if one response was at fault.
    """
    found = tuple(problems)
    text = f"the response belongs to another customer or basket: {'; '.join(found[:3])}"
    if response is None:
        return attach_request(IntegrityError(text, found), request)
    error = IntegrityError(text, found, response.status, response.request_id)
    return attach_request(error, request, attempts=response.attempts)
