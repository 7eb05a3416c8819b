"""What a login is worth once it worked: nothing weaker is answered afterwards, and nobody else gets to see it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from minted_connect import (
    AuthDowngrade,
    AuthenticationFailed,
    InvalidInput,
    NotFound,
    Options,
    RetryPolicy,
    UnexpectedRedirect,
)
from minted_connect.sandbox import ManualClock
from tests.support.raw_server import Connection, WireServer

DIGEST = 'Digest realm="shop", nonce="{}", qop="auth", algorithm=SHA-256'
FIRST = DIGEST.format("first")


def challenging(*values: str) -> str:
    return "".join(f"WWW-Authenticate: {value}\r\n" for value in values)


def login_then(*later: str):
    """A server that accepts one signed request, and responds to all others with these challenges."""
    welcome = iter([(401, challenging(FIRST)), (200, "")])

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            status, headers = next(welcome, (401, challenging(*later)))
            connection.envelope([], status, headers)

    return script


WEAKER: dict[str, tuple[str, ...]] = {
    "a weaker algorithm": ('Digest realm="shop", nonce="n", qop="auth", algorithm=MD5',),
    "no algorithm, which is MD5": ('Digest realm="shop", nonce="n", qop="auth"',),
    "a weaker algorithm, as if the nonce were stale": (
        'Digest realm="shop", nonce="n", qop="auth", algorithm=MD5, stale=true',
    ),
    "no qop": ('Digest realm="shop", nonce="n", algorithm=SHA-256',),
    "another realm": ('Digest realm="elsewhere", nonce="n", qop="auth", algorithm=SHA-256',),
    "a realm in other letters": ('Digest realm="Shop", nonce="n", qop="auth", algorithm=SHA-256',),
    "an empty nonce": ('Digest realm="shop", nonce="", qop="auth", algorithm=SHA-256',),
    "no nonce": ('Digest realm="shop", qop="auth", algorithm=SHA-256',),
    "Basic": ('Basic realm="shop"',),
    "Basic and a weaker algorithm": (
        'Basic realm="shop", charset="UTF-8"',
        'Digest realm="shop", nonce="n", qop="auth", algorithm=MD5',
    ),
    "a token that is anybody's": ('Bearer realm="shop"',),
    "the network's own": ("Negotiate", "NTLM"),
    "an algorithm that nobody knows": ('Digest realm="shop", nonce="n", qop="auth", algorithm=ROT13',),
}


@pytest.mark.requirement(29)
@pytest.mark.parametrize("later", WEAKER)
async def test_nothing_weaker_is_answered_after_the_first_success(connect, later):
    async with WireServer(login_then(*WEAKER[later])) as server:
        minted = await connect(server.url, password="canary-password")
        assert await minted.rates.current() == ()
        with pytest.raises(AuthDowngrade) as caught:
            await minted.rates.current()
    assert len(server.requests) == 3  # the challenge, the success, the call that met the weaker challenge
    assert [headers.get("authorization", "").count('nonce="first"') for _, headers, _ in server.requests] == [0, 1, 1]
    assert "canary" not in str(server.requests) + repr(caught.value)


@pytest.mark.parametrize(
    "later",
    [
        (DIGEST.format("second"),),
        (WEAKER["Basic"][0], WEAKER["a weaker algorithm"][0], DIGEST.format("second")),
        ('Basic realm="shop", ' + DIGEST.format("second"),),
        (WEAKER["another realm"][0], DIGEST.format("second")),
    ],
    ids=["alone", "last of three", "behind Basic in one line", "behind another realm"],
)
async def test_what_is_as_strong_is_answered_whatever_stands_beside_it(connect, later):
    async with WireServer(login_then(*later)) as server:
        minted = await connect(server.url)
        await minted.rates.current()
        with pytest.raises(AuthenticationFailed) as caught:  # this server accepts one request only
            await minted.rates.current()
    assert not isinstance(caught.value, AuthDowngrade)
    assert len(server.requests) == 4
    assert 'nonce="second"' in server.requests[3][1]["authorization"]
    assert "algorithm=SHA-256" in server.requests[3][1]["authorization"]


@pytest.mark.requirement(29)
@pytest.mark.parametrize("others", [True, False], ids=["Basic too", "Digest only"])
async def test_the_strongest_on_offer_is_taken_at_once(connect, others):
    offers = ['Digest realm="shop", nonce="n", qop="auth", algorithm=MD5', FIRST]
    strongest = "SHA-256"
    if "sha512_256" in hashlib.algorithms_available:
        offers.append(FIRST.replace("SHA-256", "SHA-512-256").replace("first", "strongest"))
        strongest = "SHA-512-256"
    if others:
        offers.insert(0, 'Basic realm="shop"')

    async def script(connection: Connection) -> None:
        while True:
            _, headers, _ = await connection.request()
            signed = "authorization" in headers
            connection.envelope([], 200 if signed else 401, "" if signed else challenging(*offers))

    async with WireServer(script) as server:
        minted = await connect(server.url)
        await minted.rates.current()
    assert f"algorithm={strongest}," in server.requests[1][1]["authorization"]


# Only the one origin.


async def elsewhere_script(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([])


@pytest.mark.requirement(29)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_signed_request_is_not_sent_on(connect, status):
    async with WireServer(elsewhere_script) as elsewhere:
        steps = iter(
            [
                (401, challenging(FIRST)),
                (200, ""),
                (status, f"Location: {elsewhere.url}/partner/walletable/rates\r\n"),
                (status, f"Location: {elsewhere.url.replace('127.0.0.1', 'localhost')}/\r\n"),
            ]
        )

        async def script(connection: Connection) -> None:
            while True:
                await connection.request()
                code, headers = next(steps)
                connection.envelope([], code, headers)

        async with WireServer(script) as server:
            minted = await connect(server.url)
            await minted.rates.current()
            with pytest.raises(UnexpectedRedirect):
                await minted.rates.current()
            with pytest.raises(UnexpectedRedirect):
                await minted.request("POST", "/partner/x", json={})
    assert len(server.requests) == 4
    assert elsewhere.requests == []


async def test_a_challenge_does_not_widen_where_the_login_goes(connect):
    """RFC 7616 lets `domain` name other servers that may have it."""
    async with WireServer(elsewhere_script) as elsewhere:

        async def script(connection: Connection) -> None:
            while True:
                _, headers, _ = await connection.request()
                signed = "authorization" in headers
                links = {"next_page_url": f"{elsewhere.url}/?page=2", "last_page_url": f"{elsewhere.url}/?page=9"}
                page = {"current_page": 1, "data": [], "last_page": 9, "per_page": 10, "total": 90, **links}
                domain = f'{FIRST}, domain="/ {elsewhere.url}/"'
                connection.envelope(page, 200 if signed else 401, "" if signed else challenging(domain))

        async with WireServer(script) as server:
            minted = await connect(server.url)
            page = await minted.products.page()
            assert page.raw["next_page_url"].startswith(elsewhere.url)
            assert [row async for row in minted.products.iterate()] == []
    assert len(server.requests) == 3
    assert elsewhere.requests == []


@pytest.mark.requirement(29)
async def test_no_path_leads_to_another_server(connect):
    async with WireServer(elsewhere_script) as elsewhere:
        authority = elsewhere.url.removeprefix("http://")

        async def script(connection: Connection) -> None:
            while True:
                _, headers, _ = await connection.request()
                signed = "authorization" in headers
                connection.envelope([], 404 if signed else 401, "" if signed else challenging(FIRST))

        async with WireServer(script) as server:
            options = Options(clock=ManualClock(auto_advance=True))
            minted = await connect(server.url, retry=RetryPolicy.none(), options=options)
            paths: list[Any] = [f"//{authority}/x", f"http://{authority}/x", f"/\\{authority}", f"/..//{authority}/"]
            for path in [*paths, f"@{authority}/", f":80@{authority}/"]:
                with pytest.raises(InvalidInput):
                    await minted.request("GET", path)
            assert server.requests == []
            for odd in (f"@{authority}", f"//{authority}/x", f"http://{authority}/x", f"..//{authority}"):
                with pytest.raises(NotFound):
                    await minted.customers.get(odd)
    assert len(server.requests) == 1 + 4
    assert all(first.startswith("GET /partner/customer/") for first, _, _ in server.requests)
    assert elsewhere.requests == []
