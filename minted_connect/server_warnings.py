"""Python warnings for the response headers `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Warning`."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from minted_connect.core.error_mapping import mask_text
from minted_connect.core.headers import http_date

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from minted_connect.core.request import Request
    from minted_connect.secret import Secret

__all__ = ["ServerWarning", "ServerWarnings", "has_warnings"]

_logger = logging.getLogger("minted_connect")

_TIMESTAMP: Final = re.compile(r"@(-?[0-9]{1,12})(?:;.*)?")
"""A date of RFC 9651, section 3.3.7, in seconds, with parameters."""


class ServerWarning(UserWarning):
    """The server announces that an operation is deprecated or ends, or warns about a response.

    Each client issues one warning for each operation and header. A filter that turns warnings into errors does not make
    a call fail, because the call may have moved money: the warning is then logged.
    """


class ServerWarnings:
    """Issues the warnings of one client and of the clients made by its `with_options`."""

    def __init__(self) -> None:
        self._issued: set[tuple[str, str]] = set()  # bounded by the number of operations

    def issue(self, headers: CIMultiDictProxy[str], request: Request, secrets: tuple[Secret, ...]) -> None:
        """Issue a warning for each of the headers that the operation has not been warned about.

        Args:
            headers: Headers of the response.
            request: The request.
            secrets: Masked in the text of the server.
        """
        for name, describe in _DESCRIPTIONS:
            key = (request.operation.name, name)
            if name not in headers or key in self._issued:
                continue
            self._issued.add(key)
            value = ", ".join(headers.getall(name))
            text = f"the server warns: {mask_text(value, request, secrets)}" if describe is None else describe(value)
            message = f"{request.info}: {text} (header {name})"
            try:
                warnings.warn(message, ServerWarning, stacklevel=2)
            except Exception:  # noqa: BLE001 - a filter, or a hook of the application, must not make a call fail
                _logger.warning(message)


def _describe_deprecation(value: str) -> str:
    seconds = _TIMESTAMP.fullmatch(value.strip())
    moment = None
    if seconds is None:
        moment = http_date(value)  # a draft of the RFC
    else:
        with contextlib.suppress(OverflowError, ValueError, OSError):
            moment = datetime.fromtimestamp(int(seconds[1]), UTC)
    return "the server marks the operation as deprecated" + (f" as of {moment:%Y-%m-%d}" if moment else "")


def _describe_sunset(value: str) -> str:
    moment = http_date(value)
    return f"the server will end the operation{f' on {moment:%Y-%m-%d}' if moment else ''}"


def has_warnings(headers: CIMultiDictProxy[str]) -> bool:
    """Return whether a response has any of the headers."""
    return "Deprecation" in headers or "Sunset" in headers or "Warning" in headers


_DESCRIPTIONS: Final[tuple[tuple[str, Callable[[str], str] | None], ...]] = (
    ("Deprecation", _describe_deprecation),
    ("Sunset", _describe_sunset),
    ("Warning", None),
)
