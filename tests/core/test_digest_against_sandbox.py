"""The client's Digest against the sandbox's doorman: two readings of RFC 7616 that share no code."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect.core.auth.digest import DigestAuth
from minted_connect.sandbox.digest_auth import ALGORITHMS, QOPS, DigestVerifier

pytestmark = pytest.mark.anyio

TARGETS = st.from_regex(r"\A/[!#-\[\]-~]{0,40}\Z")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1).filter(str.isprintable)


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


class Door:
    """A doorman with its clock, counting what it is asked."""

    def __init__(self, user="partner", password="secret", **options):
        self.clock = Clock()
        self.doorman = DigestVerifier(self.clock, **options)
        self.doorman.add(user, password)
        self.verdicts = []

    def __call__(self, method, target, header, body=b""):
        verdict = self.doorman.check(method, target, header, body)
        self.verdicts.append(verdict)
        return verdict.status, self.doorman.challenges(stale=verdict.stale) if verdict.status == 401 else []


async def call(auth, door, method="GET", target="/", body=b"", *, pause=0):
    async with auth.auth_flow() as flow:
        while True:
            header = flow.header(method, target, body)
            for _ in range(1 + pause):
                await asyncio.sleep(0)
            status, challenges = door(method, target, header, body)
            if status != 401:
                flow.on_success()
                return status
            if not flow.on_challenge(challenges):
                return status


@pytest.mark.parametrize("basic_first", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "qop"),
    [(algorithm, qop) for algorithm in ALGORITHMS for qop in QOPS if qop or not algorithm.endswith("-sess")],
)
async def test_every_form(algorithm, qop, basic_first):
    door = Door(algorithms=[algorithm], qop=qop, basic_first=basic_first)
    auth = DigestAuth("partner", "secret")
    for number in range(5):
        assert await call(auth, door, "POST", f"/a?n={number}", b"{}") == 200
    assert len(door.verdicts) == 6


@settings(deadline=None)  # a busy machine is no failure
@given(
    user=NAMES,
    password=st.text(st.characters(codec="utf-8")),
    realm=st.text("aZ 9'=;/(){}ğ-"),
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE"]),
    target=TARGETS,
    body=st.binary(max_size=50),
    algorithms=st.lists(st.sampled_from(ALGORITHMS), min_size=1, unique=True),
    qop=st.sampled_from([qop for qop in QOPS if qop]),
)
def test_the_doorman_agrees(user, password, realm, method, target, body, algorithms, qop):
    door = Door(user, password, realm=realm, algorithms=algorithms, qop=qop)
    flow = DigestAuth(user, password).auth_flow()
    assert flow.on_challenge(door.doorman.challenges())
    status, _ = door(method, target, flow.header(method, target, body), body)
    assert (status, door.verdicts[-1].username) == (200, user)


async def test_cold_burst():
    door, auth = Door(), DigestAuth("partner", "secret")
    assert await asyncio.gather(*(call(auth, door) for _ in range(64))) == [200] * 64
    assert len(door.verdicts) == 65


async def test_wrong_password():
    door, auth = Door(), DigestAuth("partner", "wrong")
    for _ in range(10):
        assert await call(auth, door) == 401
    assert len(door.verdicts) == 11


@pytest.mark.parametrize(
    "options", [{"nonce_uses": 1}, {"nonce_uses": 10}, {"strict_nc": True}, {"nonce_lifetime": 3.0}]
)
async def test_no_call_fails_under_nonce_churn(options):
    door, auth = Door(**options), DigestAuth("partner", "secret")
    assert await call(auth, door) == 200

    async def one(number):
        door.clock.now += 0.1
        return await call(auth, door, pause=number * 7 % 5)  # out of order

    for _ in range(10):
        assert await asyncio.gather(*(one(number) for number in range(64))) == [200] * 64
    assert len(door.verdicts) <= 2 * 641


async def test_rotated_and_forgotten_nonces():
    door, auth = Door(), DigestAuth("partner", "secret")
    assert await call(auth, door) == 200
    door.doorman.rotate_nonces()
    assert await call(auth, door) == 200
    door.doorman._nonces.clear()  # a restart: an unknown nonce, and no stale=true
    assert await call(auth, door) == 200
    assert [verdict.reason for verdict in door.verdicts if verdict.status == 401] == [
        "no credentials",
        "nonce rotated",
        "unknown nonce",
    ]
