"""The whole client, both flavours, logged in by servers that are not ours; requests counted by those servers."""

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
from tests.conftest import connect  # noqa: F401 - in place of the one beside this file, which is a Digest without a client

from .conftest import REALM, USERS, find, htdigest, httpd_login, served

USER, PASSWORD = "partner", USERS["partner"]
ENVELOPE = {"data": {"metal": "gold"}, "success": True, "code": 0, "message": ""}
BURST = 64


@attrs.frozen
class Peer:
    url: str
    log: Path
    pid: Path | None = None
    """Of a server that keeps its log to itself for seconds unless told to reopen it."""

    async def answers(self) -> Counter[str]:
        """How many answers of each status the server has logged."""
        if self.pid is not None:
            os.kill(int(self.pid.read_text()), signal.SIGHUP)
            await asyncio.sleep(0.05)
        return Counter(re.findall(r"^(\d{3})$", self.log.read_text(), re.MULTILINE))

    async def logged(self, wanted: int) -> Counter[str]:
        """The same, once the server has come round to writing `wanted` of them; the log trails the answers."""
        for _ in range(500):
            if (now := await self.answers()).total() >= wanted:
                break
            await asyncio.sleep(0.01)
        return now


def site(folder: Path, *names: str) -> None:
    for name in names:
        page = folder / "www" / name / "envelope.json"
        page.parent.mkdir(parents=True)
        page.write_text(json.dumps(ENVELOPE))
        (page.parent / "plain.txt").write_text("gold\n")


@pytest.fixture(scope="module")
def logging_apache() -> Iterator[Peer]:
    """Apache httpd: `/long/`, and `/short/` where a nonce lives for one second."""
    binary = find("apache2", "httpd")
    homes = (Path(prefix, "modules") for prefix in ("/usr/lib/apache2", "/usr/lib64/httpd", "/usr/libexec/apache2"))
    modules = next(home for home in homes if home.is_dir())
    logs: list[Path] = []

    def configure(folder: Path, port: int) -> list[str]:
        site(folder, "long", "short")
        names = ("mpm_event", "unixd", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest")
        loads = [
            f"LoadModule {name}_module {modules}/mod_{name}.so"
            for name in (*names, "log_config")
            if (modules / f"mod_{name}.so").exists()  # Debian builds some of them in
        ]
        if os.geteuid() == 0:  # httpd does not serve as root
            known = {user.pw_name for user in pwd.getpwall()}
            loads.append(f"User {next(name for name in ('www-data', 'apache', 'nobody') if name in known)}")
        logs.append(folder / "access.log")
        login = httpd_login(folder)
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

    with served(configure) as url:
        yield Peer(url, logs[0])


@pytest.fixture(scope="module")
def logging_lighttpd() -> Iterator[Peer]:
    """lighttpd with SHA-256 below `/long/`."""
    binary = find("lighttpd")
    logs: list[Path] = []

    def configure(folder: Path, port: int) -> list[str]:
        site(folder, "long")
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

    with served(configure) as url:
        yield Peer(url, logs[0], logs[0].with_name("pid"))


@pytest.fixture(params=["logging_apache", "logging_lighttpd"])
def peer(request: pytest.FixtureRequest) -> Peer:
    return request.getfixturevalue(request.param)


async def test_a_cold_burst_is_one_challenge_more(peer, connect):  # noqa: F811
    before = await peer.answers()
    minted = await connect(peer.url, USER, PASSWORD, options=Options(pool_size=BURST))
    replies = await asyncio.gather(*(minted.request("GET", "/long/envelope.json") for _ in range(BURST)))
    assert [reply.data for reply in replies] == [ENVELOPE["data"]] * BURST
    assert await peer.logged(before.total() + BURST + 1) - before == {"401": 1, "200": BURST}


async def test_a_query_is_signed_as_it_is_sent(peer, connect):  # noqa: F811
    before = await peer.answers()
    minted = await connect(peer.url, USER, PASSWORD)
    reply = await minted.request("GET", "/long/envelope.json", query={"q": 'ç "/&=+%', "n": "1"})
    assert reply.data == ENVELOPE["data"]
    assert await peer.logged(before.total() + 2) - before == {"401": 1, "200": 1}


async def test_what_is_no_envelope_is_a_typed_error(peer, connect):  # noqa: F811
    before = await peer.answers()
    minted = await connect(peer.url, USER, PASSWORD, options=Options(clock=ManualClock(auto_advance=True)))
    with pytest.raises(ProtocolError, match="not JSON"):
        await minted.request("GET", "/long/plain.txt")
    with pytest.raises(NotFound):
        await minted.customers.get("nobody")
    # Asked once more, then believed; the 404 page at once.
    assert await peer.logged(before.total() + 4) - before == {"401": 1, "200": 2, "404": 1}


async def test_a_wrong_password_is_refused_once_a_call(peer, connect):  # noqa: F811
    before = await peer.answers()
    minted = await connect(peer.url, USER, "wrong")
    with pytest.raises(AuthenticationFailed):
        await minted.request("GET", "/long/envelope.json")
    assert await peer.logged(before.total() + 2) - before == {"401": 2}


async def test_through_the_expiry_of_nonces(logging_apache, connect):  # noqa: F811
    minted = await connect(logging_apache.url, USER, PASSWORD)

    async def burst() -> list[Any]:
        return await asyncio.gather(*(minted.request("GET", "/short/envelope.json") for _ in range(16)))

    before = await logging_apache.answers()
    for _ in range(2):
        assert [reply.status for reply in await burst()] == [200] * 16
        # The lifetime is counted by the server, in real and whole seconds; any request would extend it.
        await asyncio.sleep(1.2)
    assert [reply.status for reply in await burst()] == [200] * 16
    answers = await logging_apache.logged(before.total() + 48 + 2) - before
    assert answers["200"] == 48
    # At least one challenge for each nonce that ran out, at most one for each call that held it.
    assert 2 <= answers["401"] - 1 <= 32
