"""The Digest client against the verifier of the sandbox: two implementations of RFC 7616 without common code."""

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


class Verifier:
    """The verifier of the sandbox with a clock; records its verdicts."""

    def __init__(self, user="partner", password="secret", **options):
        self.clock = Clock()
        self.digest = DigestVerifier(self.clock, **options)
        self.digest.add(user, password)
        self.verdicts = []

    def __call__(self, method, target, header, body=b""):
        verdict = self.digest.check(method, target, header, body)
        self.verdicts.append(verdict)
        return verdict.status, self.digest.challenges(stale=verdict.stale) if verdict.status == 401 else []


async def call(auth, verifier, method="GET", target="/", body=b"", *, pause=0):
    async with auth.auth_flow() as flow:
        while True:
            header = flow.header(method, target, body)
            for _ in range(1 + pause):
                await asyncio.sleep(0)
            status, challenges = verifier(method, target, header, body)
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
async def test_each_algorithm_and_qop_is_accepted(algorithm, qop, basic_first):
    verifier = Verifier(algorithms=[algorithm], qop=qop, basic_first=basic_first)
    auth = DigestAuth("partner", "secret")
    for number in range(5):
        assert await call(auth, verifier, "POST", f"/a?n={number}", b"{}") == 200
    assert len(verifier.verdicts) == 6


@settings(deadline=None)  # a busy machine must not fail the test
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
def test_any_credentials_are_accepted_by_the_verifier(user, password, realm, method, target, body, algorithms, qop):
    verifier = Verifier(user, password, realm=realm, algorithms=algorithms, qop=qop)
    flow = DigestAuth(user, password).auth_flow()
    assert flow.on_challenge(verifier.digest.challenges())
    status, _ = verifier(method, target, flow.header(method, target, body), body)
    assert (status, verifier.verdicts[-1].username) == (200, user)


async def test_64_concurrent_first_calls_send_65_requests():
    verifier, auth = Verifier(), DigestAuth("partner", "secret")
    assert await asyncio.gather(*(call(auth, verifier) for _ in range(64))) == [200] * 64
    assert len(verifier.verdicts) == 65


async def test_wrong_password_is_sent_once_per_call():
    verifier, auth = Verifier(), DigestAuth("partner", "wrong")
    for _ in range(10):
        assert await call(auth, verifier) == 401
    assert len(verifier.verdicts) == 11


@pytest.mark.parametrize(
    "options", [{"nonce_uses": 1}, {"nonce_uses": 10}, {"strict_nc": True}, {"nonce_lifetime": 3.0}]
)
async def test_concurrent_calls_with_short_lived_nonces_succeed(options):
    verifier, auth = Verifier(**options), DigestAuth("partner", "secret")
    assert await call(auth, verifier) == 200

    async def late_call(number):
        verifier.clock.now += 0.1
        return await call(auth, verifier, pause=number * 7 % 5)  # out of order

    for _ in range(10):
        assert await asyncio.gather(*(late_call(number) for number in range(64))) == [200] * 64
    assert len(verifier.verdicts) <= 2 * 641


async def test_rotated_and_forgotten_nonces_are_renewed():
    verifier, auth = Verifier(), DigestAuth("partner", "secret")
    assert await call(auth, verifier) == 200
    verifier.digest.rotate_nonces()
    assert await call(auth, verifier) == 200
    verifier.digest._nonces.clear()  # as after a restart: the nonce is unknown, and the challenge has no stale=true
    assert await call(auth, verifier) == 200
    assert [verdict.reason for verdict in verifier.verdicts if verdict.status == 401] == [
        "no credentials",
        "nonce rotated",
        "unknown nonce",
    ]
