"""Against mod_auth_digest of Apache httpd: MD5 only, after RFC 2617."""

import asyncio
import re

import pytest

pytestmark = pytest.mark.anyio


async def test_first_call_and_many_more(apache, connect):
    call = connect(apache)
    for number in range(50):
        assert await call(f"/long/page.txt?n={number}&q=%C3%A7%20%22") == 200
    assert call.counts == (1, 50)
    assert call.auth.pinned.hash_name == "MD5"


async def test_a_cold_burst_costs_one_challenge(apache, connect):
    call = connect(apache)
    assert await asyncio.gather(*(call("/long/page.txt") for _ in range(64))) == [200] * 64
    assert call.counts == (1, 64)


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_wrong_password_costs_one_request_per_call(apache, connect, password):
    call = connect(apache, password=password)
    for _ in range(10):
        assert await call("/long/page.txt") == 401
    assert call.counts == (1, 10)


async def test_a_non_ascii_user(apache, connect):
    call = connect(apache, user="Gümüş Ltd")
    assert await call("/long/page.txt") == 200
    assert call.counts == (1, 1)


async def test_an_answer_other_than_200_needs_no_second_challenge(apache, connect):
    call = connect(apache)
    assert await call("/long/missing.txt") == 404
    assert await call("/long/page.txt") == 200
    assert call.counts == (1, 2)


async def test_next_nonce_is_followed_and_an_expired_nonce_renewed(apache, connect):
    call = connect(apache)
    for _ in range(3):
        assert await call("/short/page.txt") == 200
    # So close to the end of a nonce, Apache names the next one in each answer.
    nonces = {header.partition('nonce="')[2].partition('"')[0] for header, _, _ in call.log if header}
    assert (call.counts, len(nonces)) == ((1, 3), 3)

    # The lifetime is counted by the server, in real and whole seconds; any request would extend it.
    await asyncio.sleep(1.2)
    assert await asyncio.gather(*(call("/short/page.txt") for _ in range(16))) == [200] * 16
    assert call.counts[0] == 1
    answered = [challenges for header, status, challenges in call.log if header and status == 401]
    assert 1 <= len(answered) <= 16
    assert all("stale=true" in challenges[0] for challenges in answered)


async def test_a_nonce_that_the_server_does_not_know_is_renewed(apache, connect):
    call = connect(apache)
    _, challenges, _ = await call.fetch("/long/page.txt")
    async with call.auth.auth_flow() as exchange:
        assert exchange.on_challenge([re.sub('(?<=nonce=")[^"]+', lambda nonce: nonce[0][::-1], challenges[0])])
    assert await call("/long/page.txt") == 200
    assert [status for _, status, _ in call.log] == [401, 401, 200]
