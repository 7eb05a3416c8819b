"""`DigestAuth` against mod_auth_digest of Apache httpd, which supports MD5 after RFC 2617."""

import asyncio
import re

import pytest

pytestmark = pytest.mark.anyio


async def test_apache_50_calls_are_challenged_once(apache, connect):
    call = connect(apache)
    for number in range(50):
        assert await call(f"/long/page.txt?n={number}&q=%C3%A7%20%22") == 200
    assert call.counts == (1, 50)
    assert call.auth.pinned.hash_name == "MD5"


async def test_apache_burst_is_challenged_once(apache, connect):
    call = connect(apache)
    assert await asyncio.gather(*(call("/long/page.txt") for _ in range(64))) == [200] * 64
    assert call.counts == (1, 64)


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_apache_wrong_password_sends_one_request_per_call(apache, connect, password):
    call = connect(apache, password=password)
    for _ in range(10):
        assert await call("/long/page.txt") == 401
    assert call.counts == (1, 10)


async def test_apache_non_ascii_user_is_accepted(apache, connect):
    call = connect(apache, user="Gümüş Ltd")
    assert await call("/long/page.txt") == 200
    assert call.counts == (1, 1)


async def test_apache_404_keeps_the_nonce(apache, connect):
    call = connect(apache)
    assert await call("/long/missing.txt") == 404
    assert await call("/long/page.txt") == 200
    assert call.counts == (1, 2)


async def test_apache_nextnonce_is_used_and_expired_nonce_renewed(apache, connect):
    call = connect(apache)
    for _ in range(3):
        assert await call("/short/page.txt") == 200
    # Shortly before a nonce expires, every response of Apache contains the next nonce.
    nonces = {header.partition('nonce="')[2].partition('"')[0] for header, _, _ in call.log if header}
    assert (call.counts, len(nonces)) == ((1, 3), 3)

    # The server counts the lifetime in whole seconds of real time, and every request extends it.
    await asyncio.sleep(1.2)
    assert await asyncio.gather(*(call("/short/page.txt") for _ in range(16))) == [200] * 16
    assert call.counts[0] == 1
    challenged = [challenges for header, status, challenges in call.log if header and status == 401]
    assert 1 <= len(challenged) <= 16
    assert all("stale=true" in challenges[0] for challenges in challenged)


async def test_apache_unknown_nonce_is_renewed(apache, connect):
    call = connect(apache)
    _, challenges, _ = await call.fetch("/long/page.txt")
    async with call.auth.auth_flow() as flow:
        assert flow.on_challenge([re.sub('(?<=nonce=")[^"]+', lambda nonce: nonce[0][::-1], challenges[0])])
    assert await call("/long/page.txt") == 200
    assert [status for _, status, _ in call.log] == [401, 401, 200]
