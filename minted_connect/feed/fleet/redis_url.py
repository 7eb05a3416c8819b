"""Checks the URL of a fleet's Redis server."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from minted_connect.core.extras import import_extra
from minted_connect.errors import ConfigurationError
from minted_connect.secret import Secret

__all__ = ["check_parameters", "redact_url"]

_PARAMETERS: Final = {"client_name", "db", "password", "username"}
"""Query parameters that a fleet supports. It sets timeouts, retries and decoding itself, from `Fleet.lease`."""
_TCP_PARAMETERS: Final = {"socket_keepalive"}
"""Query parameters that a fleet supports except in a `unix` URL."""
_TLS_PARAMETERS: Final = {
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
}
"""Query parameters that a fleet supports in a `rediss` URL."""
_CERTIFICATE_CHECKS: Final = {"none", "optional", "required"}


def redact_url(url: Secret) -> str:
    """Return a Redis URL without user, password and query, for logs and errors.

    Raises:
        ConfigurationError: if `url` is not the URL of a Redis server, or redis-py is not installed.
    """
    redacted = _redact_url(url)
    if redacted is None:
        raise ConfigurationError(
            "Fleet.url: must be a URL like redis://user:password@host:6379/0, rediss://... or unix:///path/to/socket; "
            "in a password write %40 for @, %2F for /, and so on"
        )
    import_extra("redis.asyncio", "redis", "Fleet: a fleet needs redis-py")
    return redacted


def _redact_url(url: Secret) -> str | None:
    # This function must not raise: its local variables contain the password, and a traceback could show them.
    try:
        parts = urlsplit(url.reveal())
        port = parts.port
    except ValueError:
        return None
    if parts.fragment or not url.reveal().isprintable():
        return None
    if parts.scheme == "unix":
        return f"unix://{parts.path}" if parts.path and not parts.hostname else None
    database = parts.path.removeprefix("/")
    # A path that is not a number may be part of a password that contains a slash.
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not (database or "0").isdecimal():
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or 6379}/{database or 0}"


def check_parameters(url: Secret) -> None:
    """Check the query parameters of a URL that `redact_url` accepts.

    Raises:
        ConfigurationError: if a parameter is not supported, or its value is invalid.
    """
    if problem := _find_problem(url):
        raise ConfigurationError(f"Fleet.url: {problem}")


def _find_problem(url: Secret) -> str | None:
    # As `_redact_url`, this function must not raise.
    from redis.asyncio.connection import parse_url  # noqa: PLC0415 - an extra

    parts = urlsplit(url.reveal())
    supported = set(_PARAMETERS)
    if parts.scheme != "unix":
        supported |= _TCP_PARAMETERS
    if parts.scheme == "rediss":
        supported |= _TLS_PARAMETERS
    fields = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(fields)
    if unsupported := sorted(query.keys() - supported):
        # A name is shown only if it cannot be a part of a password.
        names = [name if name.isidentifier() and name.isascii() else "..." for name in unsupported]
        return (
            f"unsupported parameters: {', '.join(names)}; supported: {', '.join(sorted(supported))} "
            "(timeouts follow from Fleet.lease)"
        )
    if query.get("ssl_cert_reqs", "required") not in _CERTIFICATE_CHECKS:
        return "the parameter ssl_cert_reqs must be none, optional or required"
    if "ssl_keyfile" in query and "ssl_certfile" not in query:
        return "the parameter ssl_keyfile needs the parameter ssl_certfile"
    names = [name for name, _ in fields]
    for name, value in query.items():
        if names.count(name) > 1:
            return f"the parameter {name} is repeated"
        if not value:
            return f"the parameter {name} has no value"
        try:
            parse_url(f"redis://host/?{urlencode({name: value})}")
            is_valid = _is_valid_for_tls(name, value)
        except ValueError:
            is_valid = False
        if not is_valid:
            return f"the parameter {name} has an invalid value"
    return None


def _is_valid_for_tls(name: str, value: str) -> bool:
    """Return whether a connection can use the value; otherwise, it would raise an error that is not a `FleetError`.

    Raises:
        ValueError: if `ssl_min_version` is not a version of TLS.
    """
    if name == "ssl_min_version":
        ssl.TLSVersion(int(value))
    if name == "ssl_ca_data" and not value.isascii():
        return False
    return not name.startswith("ssl_") or "\0" not in value
