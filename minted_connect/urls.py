"""Validation of the URLs of the server and of a proxy."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import attrs
from yarl import URL

from minted_connect.errors import ConfigurationError
from minted_connect.secret import Secret
from minted_connect.validation import check_type

__all__ = ["LOOPBACK", "Proxy", "check_base_url", "parse_proxy_url"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Host names of this machine. Plain HTTP is allowed to these only."""

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ZONE_ID: Final = re.compile(r"\[[^\]]*%")
_ZONE_ID_RULE: Final = (
    "an IPv6 zone id (%25eth0) is not supported, because the Host header would contain it; "
    "use a host name or an address that is not link-local"
)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def check_base_url(url: str) -> str:
    """Validate a base URL; lower the case of its host, and strip the default port and the trailing slash.

    Plain HTTP is allowed for localhost only. User info, query, fragment and IPv6 zone ids are rejected.

    Raises:
        ConfigurationError: if the URL is not absolute http(s), carries user info, a query, a fragment or an IPv6 zone
            id (RFC 6874), or is plain http to another machine.
    """
    check_type("base_url", url, str)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError("base_url: is not a URL") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("base_url: must be an absolute http or https URL")
    if _ZONE_ID.search(parts.netloc):
        raise ConfigurationError(f"base_url: {_ZONE_ID_RULE}")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url: must contain no user name or password; pass them as arguments")
    if set("?# \\") & set(url) or not url.isascii() or not url.isprintable():
        raise ConfigurationError("base_url: must contain no query, fragment, space or unprintable character")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ConfigurationError("base_url: plain http is allowed for localhost only; use https")
    # The journal identifies a server by its URL, so each server needs exactly one spelling.
    netloc = parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


@attrs.frozen
class Proxy:
    """An HTTP proxy."""

    url: str
    """Scheme, host and port, without user name and password."""
    authorization: Secret | None
    """Value of the `Proxy-Authorization` header; None if the URL has no user name."""


def parse_proxy_url(url: Secret) -> Proxy:
    """Validate the URL of a proxy. User name and password are allowed, percent-encoded, and are sent as UTF-8.

    Raises:
        ConfigurationError: if the URL is not absolute http(s), has an IPv6 zone id, or Basic authentication cannot
            transfer its user name or password.
    """
    if not isinstance(url, Secret):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"proxy: must be str or None, not {type(url).__name__}")
    # Parsed in another function: tracebacks with local variables would show the password.
    proxy = _parse_proxy_url(url)
    if isinstance(proxy, str):
        raise ConfigurationError(f"proxy: {proxy}")
    return proxy


def _parse_proxy_url(secret: Secret) -> Proxy | str:
    """Return the proxy, or the rule that its URL breaks."""
    url, rule = secret.reveal(), "must be an absolute http or https URL"
    try:
        parts = urlsplit(url)
        bare_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        _ = parts.port, URL(bare_url)
    except ValueError:
        return rule
    if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isprintable():
        return rule
    if _ZONE_ID.search(parts.netloc.rpartition("@")[2]):
        return _ZONE_ID_RULE
    if parts.username is None and parts.password is None:
        return Proxy(bare_url, None)
    try:
        username = unquote_to_bytes(parts.username or "").decode()
        password = unquote_to_bytes(parts.password or "").decode()
    except UnicodeDecodeError:
        return "user name and password must be UTF-8, percent-encoded"
    if ":" in username:  # RFC 7617, section 2
        return "the user name must contain no colon: Basic authentication cannot transfer it"
    if _CONTROL_CHARACTER.search(username + password):
        return "user name and password must contain no control characters"
    return Proxy(bare_url, Secret(f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"))
