"""After a successful login, weaker challenges are refused, and the credentials go to no other server."""

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
from tests.support.raw_server import Connection, RawServer

DIGEST = 'Digest realm="shop", nonce="{}", qop="auth", algorithm=SHA-256'
FIRST = DIGEST.format("first")


def challenge_headers(*values: str) -> str:
    return "".join(f"WWW-Authenticate: {value}\r\n" for value in values)


def accept_one_then_challenge(*challenges: str):
    """Return the script of a server that accepts one signed request and then sends these challenges only."""
    responses = iter([(401, challenge_headers(FIRST)), (200, "")])

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            status, headers = next(responses, (401, challenge_headers(*challenges)))
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
    "the realm capitalised": ('Digest realm="Shop", nonce="n", qop="auth", algorithm=SHA-256',),
    "an empty nonce": ('Digest realm="shop", nonce="", qop="auth", algorithm=SHA-256',),
    "no nonce": ('Digest realm="shop", qop="auth", algorithm=SHA-256',),
    "Basic": ('Basic realm="shop"',),
    "Basic and a weaker algorithm": (
        'Basic realm="shop", charset="UTF-8"',
        'Digest realm="shop", nonce="n", qop="auth", algorithm=MD5',
    ),
    "Bearer": ('Bearer realm="shop"',),
    "Negotiate and NTLM": ("Negotiate", "NTLM"),
    "an unknown algorithm": ('Digest realm="shop", nonce="n", qop="auth", algorithm=ROT13',),
}


@pytest.mark.requirement(29)
@pytest.mark.parametrize("challenges", WEAKER)
async def test_weaker_challenge_after_success_raises_downgrade(connect, challenges):
    async with RawServer(accept_one_then_challenge(*WEAKER[challenges])) as server:
        minted = await connect(server.url, password="canary-password")
        assert await minted.rates.current() == ()
        with pytest.raises(AuthDowngrade) as caught:
            await minted.rates.current()
    assert len(server.requests) == 3  # the first challenge, the success, and the call with the weaker challenge
    assert [headers.get("authorization", "").count('nonce="first"') for _, headers, _ in server.requests] == [0, 1, 1]
    assert "canary" not in str(server.requests) + repr(caught.value)


@pytest.mark.parametrize(
    "challenges",
    [
        (DIGEST.format("second"),),
        (WEAKER["Basic"][0], WEAKER["a weaker algorithm"][0], DIGEST.format("second")),
        ('Basic realm="shop", ' + DIGEST.format("second"),),
        (WEAKER["another realm"][0], DIGEST.format("second")),
    ],
    ids=["alone", "last of three", "behind Basic in one line", "behind another realm"],
)
async def test_equal_challenge_among_others_is_answered(connect, challenges):
    async with RawServer(accept_one_then_challenge(*challenges)) as server:
        minted = await connect(server.url)
        await minted.rates.current()
        with pytest.raises(AuthenticationFailed) as caught:  # this server accepts one request only
            await minted.rates.current()
    assert not isinstance(caught.value, AuthDowngrade)
    assert len(server.requests) == 4
    assert 'nonce="second"' in server.requests[3][1]["authorization"]
    assert "algorithm=SHA-256" in server.requests[3][1]["authorization"]


@pytest.mark.requirement(29)
@pytest.mark.parametrize("offers_basic", [True, False], ids=["Basic too", "Digest only"])
async def test_strongest_offered_challenge_is_answered_first(connect, offers_basic):
    offers = ['Digest realm="shop", nonce="n", qop="auth", algorithm=MD5', FIRST]
    strongest = "SHA-256"
    if "sha512_256" in hashlib.algorithms_available:
        offers.append(FIRST.replace("SHA-256", "SHA-512-256").replace("first", "strongest"))
        strongest = "SHA-512-256"
    if offers_basic:
        offers.insert(0, 'Basic realm="shop"')

    async def script(connection: Connection) -> None:
        while True:
            _, headers, _ = await connection.request()
            signed = "authorization" in headers
            connection.envelope([], 200 if signed else 401, "" if signed else challenge_headers(*offers))

    async with RawServer(script) as server:
        minted = await connect(server.url)
        await minted.rates.current()
    assert f"algorithm={strongest}," in server.requests[1][1]["authorization"]


# Credentials are sent to one origin only.


async def serve_anything(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([])


@pytest.mark.requirement(29)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_to_another_server_is_not_followed(connect, status):
    async with RawServer(serve_anything) as other_server:
        steps = iter(
            [
                (401, challenge_headers(FIRST)),
                (200, ""),
                (status, f"Location: {other_server.url}/partner/walletable/rates\r\n"),
                (status, f"Location: {other_server.url.replace('127.0.0.1', 'localhost')}/\r\n"),
            ]
        )

        async def script(connection: Connection) -> None:
            while True:
                await connection.request()
                code, headers = next(steps)
                connection.envelope([], code, headers)

        async with RawServer(script) as server:
            minted = await connect(server.url)
            await minted.rates.current()
            with pytest.raises(UnexpectedRedirect):
                await minted.rates.current()
            with pytest.raises(UnexpectedRedirect):
                await minted.request("POST", "/partner/x", json={})
    assert len(server.requests) == 4
    assert other_server.requests == []


async def test_domain_of_challenge_and_page_links_are_not_followed(connect):
    """RFC 7616 lets `domain` name other servers to which the client may send the credentials."""
    async with RawServer(serve_anything) as other_server:

        async def script(connection: Connection) -> None:
            while True:
                _, headers, _ = await connection.request()
                signed = "authorization" in headers
                links = {"next_page_url": f"{other_server.url}/?page=2", "last_page_url": f"{other_server.url}/?page=9"}
                # With a total above the rows read, the first page would be requested once more.
                page = {"current_page": 1, "data": [], "last_page": 9, "per_page": 10, "total": 0, **links}
                domain = f'{FIRST}, domain="/ {other_server.url}/"'
                connection.envelope(page, 200 if signed else 401, "" if signed else challenge_headers(domain))

        async with RawServer(script) as server:
            minted = await connect(server.url)
            page = await minted.products.page()
            assert page.raw["next_page_url"].startswith(other_server.url)
            assert [row async for row in minted.products.iterate()] == []
    assert len(server.requests) == 3
    assert other_server.requests == []


@pytest.mark.requirement(29)
async def test_path_with_authority_reaches_no_other_server(connect):
    async with RawServer(serve_anything) as other_server:
        authority = other_server.url.removeprefix("http://")

        async def script(connection: Connection) -> None:
            while True:
                _, headers, _ = await connection.request()
                signed = "authorization" in headers
                connection.envelope([], 404 if signed else 401, "" if signed else challenge_headers(FIRST))

        async with RawServer(script) as server:
            options = Options(clock=ManualClock(auto_advance=True))
            minted = await connect(server.url, retry=RetryPolicy.none(), options=options)
            paths: list[Any] = [f"//{authority}/x", f"http://{authority}/x", f"/\\{authority}", f"/..//{authority}/"]
            for path in [*paths, f"@{authority}/", f":80@{authority}/"]:
                with pytest.raises(InvalidInput):
                    await minted.request("GET", path)
            assert server.requests == []
            for customer_id in (f"@{authority}", f"//{authority}/x", f"http://{authority}/x", f"..//{authority}"):
                with pytest.raises(NotFound):
                    await minted.customers.get(customer_id)
    assert len(server.requests) == 1 + 4
    assert all(first.startswith("GET /partner/customer/") for first, _, _ in server.requests)
    assert other_server.requests == []
