"""Validation of the URLs of the server and of a proxy."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from minted_connect.errors import ConfigurationError
from minted_connect.secret import Secret
from minted_connect.validation import check_type

__all__ = ["LOOPBACK", "check_base_url", "check_proxy_url"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Host names of this machine. Plain HTTP is allowed to these only."""

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def check_base_url(url: str) -> str:
    """Validate a base URL; lower the case of its host, and strip the default port and the trailing slash.

    Plain HTTP is allowed for localhost only. User info, query and fragment are rejected.

    Raises:
        ConfigurationError: if the URL is not absolute http(s), carries user info, a query or a fragment, or is plain
            http to another machine.
    """
    check_type("base_url", url, str)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError("base_url: is not a URL") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("base_url: must be an absolute http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url: must contain no user name or password; pass them as arguments")
    if set("?# \\") & set(url) or not url.isascii() or not url.isprintable():
        raise ConfigurationError("base_url: must contain no query, fragment, space or unprintable character")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ConfigurationError("base_url: plain http is allowed for localhost only; use https")
    # The journal identifies a server by its URL, so each server needs exactly one spelling.
    netloc = parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def check_proxy_url(url: Secret) -> Secret:
    """Validate the URL of a proxy. User name and password are allowed.

    Raises:
        ConfigurationError: if the URL is not absolute http(s).
    """
    if not isinstance(url, Secret):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"proxy: must be str or None, not {type(url).__name__}")
    # Parsed in another function: tracebacks with local variables would show the password.
    if not _is_http_url(url):
        raise ConfigurationError("proxy: must be an absolute http or https URL")
    return url


def _is_http_url(secret: Secret) -> bool:
    url = secret.reveal()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and url.isprintable()
