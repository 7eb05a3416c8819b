"""Who is trusted, and that only a context of the caller says otherwise: no variable, no old version, no lender."""

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
from tests.support.raw_server import Connection, WireServer, forgive_broken_handshakes

ONCE = RetryPolicy.none()
CLIENTS = [AsyncMintedConnect, MintedConnect]


async def fine(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def known(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the certificate of the authority."""
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the certificate of another authority."""
    path = tmp_path_factory.mktemp("tls") / "others.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def serving(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return context


SWITCHES = {
    "the switch of old Pythons": {"PYTHONHTTPSVERIFY": "0"},
    "no authorities": {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/nonexistent"},
    "authorities that are nowhere": {"SSL_CERT_FILE": "/nonexistent/authorities.pem"},
    "another authority": {"SSL_CERT_FILE": "{others}"},
    "what other libraries look at": {
        "REQUESTS_CA_BUNDLE": "{known}",
        "CURL_CA_BUNDLE": "{known}",
        "AWS_CA_BUNDLE": "{known}",
        "NODE_EXTRA_CA_CERTS": "{known}",
        "NODE_TLS_REJECT_UNAUTHORIZED": "0",
        "GIT_SSL_NO_VERIFY": "1",
    },
}


@pytest.mark.requirement(28)
@pytest.mark.parametrize("switch", SWITCHES)
async def test_no_variable_switches_the_checking_off(connect, authority, known, others, monkeypatch, switch):
    for name, value in SWITCHES[switch].items():
        monkeypatch.setenv(name, value.format(known=known, others=others))
    async with WireServer(fine, ssl=serving(authority)) as server:
        minted = await connect(server.url, retry=ONCE)
        with pytest.raises(TLSFailed):
            await minted.rates.current()
    assert server.requests == []


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", True), ("elsewhere.example", False)])
async def test_a_machine_may_say_where_it_keeps_its_authorities(connect, authority, known, monkeypatch, name, trusted):
    """OpenSSL's own variable adds to whom the machine trusts; the name is checked all the same."""
    monkeypatch.setenv("SSL_CERT_FILE", str(known))
    async with WireServer(fine, ssl=serving(authority, name)) as server:
        minted = await connect(server.url, retry=ONCE)
        if trusted:
            assert await minted.rates.current() == ()
        else:
            with pytest.raises(TLSFailed):
                await minted.rates.current()
    assert len(server.requests) == trusted


@pytest.mark.requirement(28)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_a_server_of_the_last_century(connect, authority, version):
    old = serving(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = version
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")  # or it is OpenSSL's own strictness that ends it
    shaken: list[Exception] = []

    def serve() -> None:  # not asyncio's server, which hangs up before it has said why
        connection, _ = listener.accept()
        try:
            with old.wrap_socket(connection, server_side=True):
                pass
        except OSError as error:
            shaken.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(serve)
        minted = await connect(f"https://127.0.0.1:{listener.getsockname()[1]}", ssl_context=context)
        with pytest.raises(TLSFailed) as caught:
            await minted.rates.current()
    assert caught.value.attempts == 1
    assert [type(error) for error in shaken] == [ssl.SSLError]


@pytest.mark.requirement(28)
async def test_the_context_of_every_lane_is_strict(authority, known, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(known))
    async with (
        WireServer(fine, ssl=serving(authority)) as server,
        AsyncMintedConnect("u", "p", base_url=server.url) as minted,
    ):
        await minted.rates.current()
        pools = (minted._api.state.transport._pools or {}).values()
        contexts = [pool.session.connector._ssl for pool in pools]
    assert len(contexts) == 3
    for context in contexts:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.requirement(28)
async def test_a_lender_who_checks_nothing_does_not_decide_for_us(authority):
    async with (
        WireServer(fine, ssl=serving(authority)) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        AsyncMintedConnect("u", "p", base_url=server.url, session=session, retry=ONCE) as minted,
    ):
        async with session.get(server.url) as answer:
            assert answer.status == 200
        with pytest.raises(TLSFailed):
            await minted.rates.current()
    assert len(server.requests) == 1


async def test_a_purchase_checks_as_a_read_does(connect, authority):
    """A completion has a connection of its own: by the time it is made, somebody else may listen there."""
    async with Sandbox(seed=1, ssl_context=serving(authority)) as sandbox:
        context = trusting(authority)
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, retry=ONCE, ssl_context=context)
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        done = await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert done.order is not None
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        # The everyday connection lives on. A new one finds a certificate that is not known to be still good.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        forgive_broken_handshakes()
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
def test_plain_http_goes_no_further_than_this_machine(cls, url, monkeypatch):
    with pytest.raises(ConfigurationError, match="base_url"):
        cls("u", "p", base_url=url)
    for name, value in (("USERNAME", "u"), ("PASSWORD", "p"), ("BASE_URL", url)):
        monkeypatch.setenv(f"MINTED_CONNECT_{name}", value)
    with pytest.raises(ConfigurationError, match="base_url"):
        cls.from_env()


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_plain_http_to_this_machine(cls, host):
    assert host.lower() in repr(cls("u", "p", base_url=f"http://{host}:8787")).lower()
