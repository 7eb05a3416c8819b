"""IPv6 zone ids (RFC 6874) in the URLs of servers and proxies: refused, because aiohttp sends them in `Host`."""

from __future__ import annotations

import pytest

from minted_connect import AsyncMintedConnect, ConfigurationError, MintedConnect
from minted_connect.secret import Secret
from minted_connect.urls import check_base_url, parse_proxy_url

HOSTS = [
    "[fe80::1%25eth0]",
    "[fe80::1%25eth0]:8443",
    "[fe80::1%eth0]",
    "[fe80::1%252]",
    "[FE80::1%25Eth0]",
    "[::1%25lo]",
]
REASON = "an IPv6 zone id .* is not supported, .*use a host name or an address that is not link-local"


@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTS)
def test_base_url_with_zone_id_is_refused(client, scheme: str, host: str):
    with pytest.raises(ConfigurationError, match=f"base_url: {REASON}"):
        client("partner", "secret", base_url=f"{scheme}://{host}/partner")


@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("user", ["", "proxy:secret@", "per%25cent:%5B%25@"])
@pytest.mark.parametrize("host", HOSTS)
def test_proxy_with_zone_id_is_refused(client, scheme: str, user: str, host: str):
    with pytest.raises(ConfigurationError, match=f"proxy: {REASON}") as caught:
        client("partner", "secret", proxy=f"{scheme}://{user}{host}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://[fd00::2]:8443", "http://[::1]:8080/prefix", "https://[::ffff:192.0.2.1]"])
def test_ipv6_address_without_zone_id_is_accepted(url: str):
    assert check_base_url(url) == url


@pytest.mark.parametrize("user", ["", "per%25cent:%5B%25@", "%5Bfe80%25eth0%5D:%25@"])
def test_proxy_password_with_percent_is_accepted(user: str):
    assert parse_proxy_url(Secret(f"http://{user}[fd00::2]:3128")).url == "http://[fd00::2]:3128"
