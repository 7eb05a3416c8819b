"""Builds the error for a failure of aiohttp or the operating system, by the phase that the request reached. No I/O."""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from minted_connect.config import Options, Timeouts
from minted_connect.core.pool import ConnectionDropped, RequestProgress, SendLimitPassed, describe_cause
from minted_connect.core.response import BodyTooLarge
from minted_connect.errors import (
    ConnectFailed,
    MintedConnectError,
    NotSent,
    Phase,
    PoolTimeout,
    ProtocolError,
    RequestTimeout,
    ResponseTooLarge,
    TLSFailed,
    TransportError,
)

__all__ = ["map_failure"]

_TLS_FAILURES = (aiohttp.ClientSSLError, ssl.SSLError)
_CONNECT_FAILURES = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError)


def map_failure(
    error: BaseException, options: Options, timeouts: Timeouts, limit: float, progress: RequestProgress
) -> MintedConnectError:
    """Return the error for a failure of aiohttp or the operating system, by phase and class.

    Args:
        error: The failure.
        options: The options of the client, whose limits the texts name.
        timeouts: The timeouts of the attempt.
        limit: Seconds after which the attempt timed out.
        progress: The progress of the request.
    """
    cause = str(error) if isinstance(error, ConnectionDropped) else describe_cause(error)
    if progress.phase is Phase.NOT_SENT:
        return _map_unsent(error, timeouts, limit, progress, cause)
    if isinstance(error, TimeoutError):
        return RequestTimeout(f"no complete response within {limit:.3g} s", phase=progress.phase)
    if isinstance(error, BodyTooLarge):
        text = f"the response is larger than {options.max_body} bytes (Options.max_body)"
        return ResponseTooLarge(text, (text,))
    if isinstance(error, aiohttp.ClientResponseError) and _is_line_too_long(error):
        text = f"a header line of the response exceeds {options.max_header_line} bytes (Options.max_header_line)"
        return ProtocolError(text, (text,))
    if isinstance(error, aiohttp.ClientResponseError):
        text = f"the response is not valid HTTP ({cause})"
        return ProtocolError(text, (text,))
    has_response = progress.phase is Phase.RESPONDED
    text = "the response was truncated" if has_response else "the connection broke before a response came"
    return TransportError(f"{text} ({cause})", phase=progress.phase)


def _map_unsent(
    error: BaseException, timeouts: Timeouts, limit: float, progress: RequestProgress, cause: str
) -> NotSent:
    if isinstance(error, SendLimitPassed):
        assert progress.limit is not None
        return progress.limit.make_error()
    if isinstance(error, _TLS_FAILURES):
        return TLSFailed(f"no trusted TLS connection to the server ({cause})")
    if _is_handshake_closed(error):
        text = (
            "no trusted TLS connection to the server: the server closed the connection during the handshake; it may be "
            "restarting, or may not support TLS 1.2"
        )
        return TLSFailed(text, is_closed_by_server=True)
    if isinstance(error, TimeoutError):
        waited = min(timeouts.connect, limit)
        if progress.is_queued:
            return PoolTimeout(f"all connections of the lent session were busy for {waited:g} s")
        if progress.is_waiting_for_login:
            return ConnectFailed(f"the digest handshake started by another call timed out after {limit:.3g} s")
        return ConnectFailed(f"no connection to the server within {waited:g} s")
    is_broken = not isinstance(error, _CONNECT_FAILURES)
    text = "the connection broke before anything was sent" if is_broken else "no connection to the server"
    return ConnectFailed(f"{text} ({cause})")


def _is_line_too_long(error: aiohttp.ClientResponseError) -> bool:
    cause = error.__cause__  # an HttpProcessingError, whose cause is the error of the parser
    return isinstance(cause, LineTooLong) or (cause is not None and isinstance(cause.__cause__, LineTooLong))


def _is_handshake_closed(error: BaseException) -> bool:
    """Return whether the server closed the connection during the TLS handshake without an alert."""
    # No alert comes from load balancers without a backend, nor from asyncio servers that support only TLS 1.1.
    # asyncio reports the end of the stream by a ConnectionResetError without errno; a reset by the network has one.
    if not isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error.os_error, ConnectionResetError) and error.os_error.errno is None
