"""Describes the response that a model was read from: status, headers, request id, attempts, duration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import attrs

__all__ = ["HasResponse", "ResponseInfo", "attach_response"]

_SECRET: Final = (
    "Authentication-Info",
    "Authorization",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "Set-Cookie",
    "WWW-Authenticate",
)
"""Headers that hold nonces, digests or cookies."""
_STARS: Final = "***"


@attrs.frozen(slots=False)  # faster to make than a frozen class with slots
class ResponseInfo:
    """One successful response, without its body."""

    status: int
    """HTTP status."""
    _headers: Mapping[str, str] = attrs.field(repr=False)
    request_id: str | None = None
    """The request id that the server sent, if any."""
    attempts: int = 1
    """Number of attempts that were made."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the start of the request to the response, retries and the waits between them included."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive. Values that authenticate, such as cookies, are replaced by ``***``."""
        # The models are imported without aiohttp and its libraries.
        from multidict import CIMultiDict  # noqa: PLC0415

        headers = CIMultiDict(self._headers)
        for name in _SECRET:
            if name in headers:
                headers[name] = _STARS
        return headers

    def __getstate__(self) -> dict[str, Any]:
        # The headers of aiohttp cannot be pickled.
        return {**self.__dict__, "_headers": self.headers}


class HasResponse:
    """Base of the models that know the response they were read from."""

    @property
    def response(self) -> ResponseInfo | None:
        """The response that this object was read from: status, headers, request id, attempts, elapsed.

        None for an object that was built, copied or unpickled, for a part of another object, and for an order that was
        found by reconciliation. Rows of a page have the response of the page. Neither compared nor stored.
        """
        return self.__dict__.get("_response")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_response", None)
        return state


def attach_response(model: object, response: ResponseInfo) -> None:
    """Set the `response` of a model, of a page and its rows, or of the rows of a tuple.

    It does not keep the body of the response alive, which may be a page of which one row is used.
    """
    info = ResponseInfo(
        response.status,
        response._headers,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        response.request_id,
        response.attempts,
        response.elapsed,
    )
    rows: Iterable[object] = ()
    if isinstance(model, HasResponse):
        # In place, because the classes are frozen, and because a copy would take as long as a part of the decoding.
        model.__dict__["_response"] = info
        rows = model.__dict__.get("items", ())
    elif isinstance(model, tuple):
        rows = cast("tuple[object, ...]", model)
    for row in rows:
        if isinstance(row, HasResponse):
            row.__dict__["_response"] = info
