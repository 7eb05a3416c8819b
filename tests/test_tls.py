"""Certificate checks can be changed by `ssl_context` only: not by variables, old protocols or a lent session."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
import trustme

from minted_connect import AsyncMintedConnect, ConfigurationError, MintedConnect, RetryPolicy, TLSFailed
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD
from tests.support.raw_server import Connection, RawServer, ignore_handshake_errors

ONCE = RetryPolicy.none()
CLIENTS = [AsyncMintedConnect, MintedConnect]


async def succeed(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the certificate of the authority."""
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def other_authority_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the certificate of another authority."""
    path = tmp_path_factory.mktemp("tls") / "others.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return context


VARIABLES = {
    "variable of old Python versions": {"PYTHONHTTPSVERIFY": "0"},
    "no authorities": {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/nonexistent"},
    "missing file of authorities": {"SSL_CERT_FILE": "/nonexistent/authorities.pem"},
    "another authority": {"SSL_CERT_FILE": "{other_authority_file}"},
    "variables of other libraries": {
        "REQUESTS_CA_BUNDLE": "{authority_file}",
        "CURL_CA_BUNDLE": "{authority_file}",
        "AWS_CA_BUNDLE": "{authority_file}",
        "NODE_EXTRA_CA_CERTS": "{authority_file}",
        "NODE_TLS_REJECT_UNAUTHORIZED": "0",
        "GIT_SSL_NO_VERIFY": "1",
    },
}


@pytest.mark.requirement(28)
@pytest.mark.parametrize("variables", VARIABLES)
async def test_environment_cannot_disable_certificate_checks(
    connect, authority, authority_file, other_authority_file, monkeypatch, variables
):
    for name, value in VARIABLES[variables].items():
        monkeypatch.setenv(name, value.format(authority_file=authority_file, other_authority_file=other_authority_file))
    async with RawServer(succeed, ssl=server_context(authority)) as server:
        minted = await connect(server.url, retry=ONCE)
        with pytest.raises(TLSFailed):
            await minted.rates.current()
    assert server.requests == []


@pytest.mark.parametrize(("name", "is_trusted"), [("127.0.0.1", True), ("elsewhere.example", False)])
async def test_ssl_cert_file_adds_authorities_only(connect, authority, authority_file, monkeypatch, name, is_trusted):
    """Check that SSL_CERT_FILE adds trusted authorities, and that the host name is still checked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    async with RawServer(succeed, ssl=server_context(authority, name)) as server:
        minted = await connect(server.url, retry=ONCE)
        if is_trusted:
            assert await minted.rates.current() == ()
        else:
            with pytest.raises(TLSFailed):
                await minted.rates.current()
    assert len(server.requests) == is_trusted


@pytest.mark.requirement(28)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_server_with_tls_below_1_2_raises_tls_failed(connect, authority, version):
    old_context = server_context(authority)
    old_context.set_ciphers("ALL:@SECLEVEL=0")
    old_context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old_context.maximum_version = version
    context = client_context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")  # otherwise OpenSSL itself refuses the connection
    handshake_errors: list[Exception] = []

    def serve() -> None:  # asyncio's server would close the connection without an alert
        connection, _ = listener.accept()
        try:
            with old_context.wrap_socket(connection, server_side=True):
                pass
        except OSError as error:
            handshake_errors.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(serve)
        minted = await connect(f"https://127.0.0.1:{listener.getsockname()[1]}", ssl_context=context)
        with pytest.raises(TLSFailed) as caught:
            await minted.rates.current()
    assert caught.value.attempts == 1
    assert [type(error) for error in handshake_errors] == [ssl.SSLError]


@pytest.mark.requirement(28)
async def test_context_of_every_pool_is_strict(authority, authority_file, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    async with (
        RawServer(succeed, ssl=server_context(authority)) as server,
        AsyncMintedConnect("u", "p", base_url=server.url) as minted,
    ):
        await minted.rates.current()
        pools = (minted._api.state.transport._pools or {}).values()
        contexts = [pool.connections.connector._ssl for pool in pools]
    assert len(contexts) == 3
    for context in contexts:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.requirement(28)
async def test_lent_session_without_checks_raises_tls_failed(authority):
    async with (
        RawServer(succeed, ssl=server_context(authority)) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        AsyncMintedConnect("u", "p", base_url=server.url, session=session, retry=ONCE) as minted,
    ):
        async with session.get(server.url) as response:
            assert response.status == 200
        with pytest.raises(TLSFailed):
            await minted.rates.current()
    assert len(server.requests) == 1


async def test_purchase_checks_the_certificate_again(connect, authority):
    """Check that the separate connection of a completion checks the certificate: the server may have changed."""
    async with Sandbox(seed=1, ssl_context=server_context(authority)) as sandbox:
        context = client_context(authority)
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, retry=ONCE, ssl_context=context)
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert completion.order is not None
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        # The default connection stays open. A new connection cannot check the certificate for revocation.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        ignore_handshake_errors()
        with pytest.raises(TLSFailed):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert await minted.complete.pending() == []
        assert len(sandbox.shop.orders) == 1


@pytest.mark.requirement(28)
@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    "url",
    [
        "http://api.mintedconnect.example",
        "HTTP://api.mintedconnect.example",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@example.com",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://192.168.0.1:8080",
        "http://[::2]",
        "http://example.com#localhost",
        "//example.com",
        "ws://localhost",
    ],
)
def test_plain_http_to_other_hosts_is_refused(cls, url, monkeypatch):
    with pytest.raises(ConfigurationError, match="base_url"):
        cls("u", "p", base_url=url)
    for name, value in (("USERNAME", "u"), ("PASSWORD", "p"), ("BASE_URL", url)):
        monkeypatch.setenv(f"MINTED_CONNECT_{name}", value)
    with pytest.raises(ConfigurationError, match="base_url"):
        cls.from_env()


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_plain_http_to_localhost_is_allowed(cls, host):
    assert host.lower() in repr(cls("u", "p", base_url=f"http://{host}:8787")).lower()
