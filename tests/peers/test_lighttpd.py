"""`DigestAuth` against mod_auth of lighttpd, which supports MD5, SHA-256 and SHA-512/256 after RFC 7616."""

import asyncio
import re

import pytest

pytestmark = pytest.mark.anyio

FOLDERS = {"md5": "MD5", "sha256": "SHA-256", "sha512-256": "SHA-512-256", "all": "SHA-512-256"}


@pytest.fixture(params=FOLDERS)
def folder(request):
    return request.param


async def test_lighttpd_50_calls_are_challenged_once(lighttpd, connect, folder):
    call = connect(lighttpd)
    for number in range(50):
        assert await call(f"/{folder}/page.txt?n={number}&q=%C3%A7%20%22") == 200
    assert call.counts == (1, 50)
    assert call.auth.pinned.hash_name == FOLDERS[folder]


async def test_lighttpd_burst_is_challenged_once(lighttpd, connect, folder):
    call = connect(lighttpd)
    assert await asyncio.gather(*(call(f"/{folder}/page.txt") for _ in range(64))) == [200] * 64
    assert call.counts == (1, 64)


async def test_lighttpd_wrong_password_sends_one_request_per_call(lighttpd, connect):
    call = connect(lighttpd, password="wrong")
    for _ in range(2):  # lighttpd delays each of these responses by a second
        assert await call("/all/page.txt") == 401
    assert call.counts == (1, 2)


async def test_lighttpd_non_ascii_user_is_sent_as_username_star(lighttpd, connect, folder):
    call = connect(lighttpd, user="Gümüş Ltd")
    assert await call(f"/{folder}/page.txt") == 200
    assert call.counts == (1, 1)
    assert "username*=UTF-8''G%C3%BCm%C3%BC%C5%9F%20Ltd," in call.log[-1][0]


@pytest.mark.parametrize("user", ["partner", "Gümüş Ltd"])
async def test_lighttpd_userhash_hides_the_user_name(lighttpd, connect, user):
    call = connect(lighttpd, user=user)
    assert await call("/userhash/page.txt") == 200
    assert call.counts == (1, 1)
    assert "userhash=true" in call.log[-1][0]
    assert user not in call.log[-1][0]


async def age_nonce(call, target, seconds):
    """Give the client a nonce that is `seconds` old.

    lighttpd fixes the lifetime at 600 s, but without a `nonce-secret` a nonce is the time in hexadecimal, a colon,
    and something that is not verified.
    """
    _, challenges, _ = await call.fetch(target)
    old = [re.sub('(?<=nonce=")[0-9a-f]+', lambda time: f"{int(time[0], 16) - seconds:x}", text) for text in challenges]
    async with call.auth.auth_flow() as flow:
        assert flow.on_challenge(old)
    call.log.clear()


async def test_lighttpd_expired_nonce_is_renewed(lighttpd, connect, folder):
    target = f"/{folder}/page.txt"
    call = connect(lighttpd)
    await age_nonce(call, target, 700)
    assert await asyncio.gather(*(call(target) for _ in range(16))) == [200] * 16
    refused = [challenges for _, status, challenges in call.log if status == 401]
    assert 1 <= len(refused) <= 16
    assert all("stale=true" in challenges[0] for challenges in refused)
    assert call.counts == (0, 16 + len(refused))


async def test_lighttpd_nextnonce_is_used(lighttpd, connect, folder):
    target = f"/{folder}/page.txt"
    call = connect(lighttpd)
    await age_nonce(call, target, 560)  # in the last minute of a nonce, lighttpd sends the next nonce
    for _ in range(3):
        assert await call(target) == 200
    nonces = [re.search('nonce="([^"]+)', header)[1] for header, _, _ in call.log]
    assert nonces[0] != nonces[1] == nonces[2]
