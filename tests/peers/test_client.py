"""Both clients against Apache httpd and lighttpd, which count the requests in their logs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import AuthenticationFailed, NotFound, Options, ProtocolError
from minted_connect.sandbox import ManualClock
from tests.conftest import connect  # noqa: F401 - replaces the fixture of tests/peers/conftest.py

from .conftest import REALM, USERS, find, htdigest, httpd_auth_directives, run_server

USER, PASSWORD = "partner", USERS["partner"]
ENVELOPE = {"data": {"metal": "gold"}, "success": True, "code": 0, "message": ""}
BURST = 64


@attrs.frozen
class Peer:
    url: str
    log: Path
    pid: Path | None = None
    """The file with the process id of a server that buffers its log until it gets SIGHUP; None for other servers."""

    async def count_statuses(self) -> Counter[str]:
        """Return the number of logged responses of each status."""
        if self.pid is not None:
            os.kill(int(self.pid.read_text()), signal.SIGHUP)
            await asyncio.sleep(0.05)
        return Counter(re.findall(r"^(\d{3})$", self.log.read_text(), re.MULTILINE))

    async def wait_for_statuses(self, count: int) -> Counter[str]:
        """Return the same when the log, which is written after the responses, contains `count` of them."""
        for _ in range(500):
            if (counts := await self.count_statuses()).total() >= count:
                break
            await asyncio.sleep(0.01)
        return counts


def write_site(folder: Path, *names: str) -> None:
    for name in names:
        page = folder / "www" / name / "envelope.json"
        page.parent.mkdir(parents=True)
        page.write_text(json.dumps(ENVELOPE))
        (page.parent / "plain.txt").write_text("gold\n")


@pytest.fixture(scope="module")
def logging_apache() -> Iterator[Peer]:
    """Run Apache httpd: below `/short/` a nonce expires after one second, below `/long/` it does not."""
    binary = find("apache2", "httpd")
    folders = (Path(prefix, "modules") for prefix in ("/usr/lib/apache2", "/usr/lib64/httpd", "/usr/libexec/apache2"))
    modules = next(path for path in folders if path.is_dir())
    logs: list[Path] = []

    def configure(folder: Path, port: int) -> list[str]:
        write_site(folder, "long", "short")
        names = ("mpm_event", "unixd", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest")
        loads = [
            f"LoadModule {name}_module {modules}/mod_{name}.so"
            for name in (*names, "log_config")
            if (modules / f"mod_{name}.so").exists()  # Debian compiles some of them into httpd
        ]
        if os.geteuid() == 0:  # httpd does not serve as root
            accounts = {user.pw_name for user in pwd.getpwall()}
            loads.append(f"User {next(name for name in ('www-data', 'apache', 'nobody') if name in accounts)}")
        logs.append(folder / "access.log")
        login = httpd_auth_directives(folder)
        (folder / "httpd.conf").write_text(
            "\n".join(loads)
            + f"""
            ServerRoot "{folder}"
            ServerName 127.0.0.1
            Listen 127.0.0.1:{port}
            PidFile "{folder}/httpd.pid"
            DefaultRuntimeDir "{folder}"
            ErrorLog "{folder}/error.log"
            CustomLog "{logs[0]}" "%>s"
            DocumentRoot "{folder}/www"
            StartServers 1
            KeepAlive On
            <Location "/">
                {login}
            </Location>
            <Location "/short/">
                {login}
                AuthDigestNonceLifetime 1
            </Location>
            """
        )
        return [binary, "-f", str(folder / "httpd.conf"), "-DFOREGROUND"]

    with run_server(configure) as url:
        yield Peer(url, logs[0])


@pytest.fixture(scope="module")
def logging_lighttpd() -> Iterator[Peer]:
    """Run lighttpd with SHA-256 below `/long/`."""
    binary = find("lighttpd")
    logs: list[Path] = []

    def configure(folder: Path, port: int) -> list[str]:
        write_site(folder, "long")
        logs.append(folder / "access.log")
        (folder / "lighttpd.conf").write_text(f"""
            server.document-root = "{folder}/www"
            server.bind = "127.0.0.1"
            server.port = {port}
            server.pid-file = "{folder}/pid"
            server.modules = ("mod_auth", "mod_authn_file", "mod_accesslog")
            accesslog.filename = "{logs[0]}"
            accesslog.format = "%s"
            auth.backend = "htdigest"
            auth.backend.htdigest.userfile = "{htdigest(folder / "users", hashlib.md5, hashlib.sha256)}"
            auth.require = ("/" => ("method" => "digest", "algorithm" => "SHA-256", "realm" => "{REALM}",
                "require" => "valid-user"))
        """)
        return [binary, "-D", "-f", str(folder / "lighttpd.conf")]

    with run_server(configure) as url:
        yield Peer(url, logs[0], logs[0].with_name("pid"))


@pytest.fixture(params=["logging_apache", "logging_lighttpd"])
def peer(request: pytest.FixtureRequest) -> Peer:
    return request.getfixturevalue(request.param)


async def test_client_burst_is_challenged_once(peer, connect):  # noqa: F811
    before = await peer.count_statuses()
    minted = await connect(peer.url, USER, PASSWORD, options=Options(pool_size=BURST))
    responses = await asyncio.gather(*(minted.request("GET", "/long/envelope.json") for _ in range(BURST)))
    assert [response.data for response in responses] == [ENVELOPE["data"]] * BURST
    assert await peer.wait_for_statuses(before.total() + BURST + 1) - before == {"401": 1, "200": BURST}


async def test_client_query_is_signed_as_it_is_sent(peer, connect):  # noqa: F811
    before = await peer.count_statuses()
    minted = await connect(peer.url, USER, PASSWORD)
    response = await minted.request("GET", "/long/envelope.json", query={"q": 'ç "/&=+%', "n": "1"})
    assert response.data == ENVELOPE["data"]
    assert await peer.wait_for_statuses(before.total() + 2) - before == {"401": 1, "200": 1}


async def test_client_response_without_envelope_raises_typed_error(peer, connect):  # noqa: F811
    before = await peer.count_statuses()
    minted = await connect(peer.url, USER, PASSWORD, options=Options(clock=ManualClock(auto_advance=True)))
    with pytest.raises(ProtocolError, match="not JSON"):
        await minted.request("GET", "/long/plain.txt")
    with pytest.raises(NotFound):
        await minted.customers.get("nobody")
    # A response that is not JSON is retried once, a 404 is not.
    assert await peer.wait_for_statuses(before.total() + 4) - before == {"401": 1, "200": 2, "404": 1}


async def test_client_wrong_password_is_sent_once(peer, connect):  # noqa: F811
    before = await peer.count_statuses()
    minted = await connect(peer.url, USER, "wrong")
    with pytest.raises(AuthenticationFailed):
        await minted.request("GET", "/long/envelope.json")
    assert await peer.wait_for_statuses(before.total() + 2) - before == {"401": 2}


async def test_client_expired_nonces_are_renewed(logging_apache, connect):  # noqa: F811
    minted = await connect(logging_apache.url, USER, PASSWORD)

    async def burst() -> list[Any]:
        return await asyncio.gather(*(minted.request("GET", "/short/envelope.json") for _ in range(16)))

    before = await logging_apache.count_statuses()
    for _ in range(2):
        assert [response.status for response in await burst()] == [200] * 16
        # The server counts the lifetime in whole seconds of real time, and every request extends it.
        await asyncio.sleep(1.2)
    assert [response.status for response in await burst()] == [200] * 16
    statuses = await logging_apache.wait_for_statuses(before.total() + 48 + 2) - before
    assert statuses["200"] == 48
    # At least one challenge for each expired nonce, at most one for each call that used it.
    assert 2 <= statuses["401"] - 1 <= 32
