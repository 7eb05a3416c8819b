import hashlib

import pytest

from minted_connect.sandbox import ManualClock
from minted_connect.sandbox.digest_auth import DigestVerifier, _Nonce, digest, expected_response, parse_authorization


def make_verifier(clock=None, **options):
    verifier = DigestVerifier(clock or ManualClock(), **options)
    verifier.add("partner", "secret")
    return verifier


@pytest.fixture
def authenticate(digest_header):
    """Send credentials for a challenge and return the result."""

    def authenticate(
        verifier, challenge=None, *, method="GET", target="/a?b=c", nc=1, body=b"", actual_target=None, **changed
    ):
        challenge = challenge or verifier.challenges()[0]
        header = digest_header(challenge, "partner", "secret", method, target, nc, body, changed=changed)
        return verifier.check(method, actual_target or target, header, body)

    return authenticate


# RFC 7616, section 3.9.1
MUFASA = {
    "username": "Mufasa",
    "realm": "http-auth@example.org",
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "uri": "/dir/index.html",
    "qop": "auth",
    "nc": "00000001",
    "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
}


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_verifier_accepts_rfc_7616_example(algorithm, response):
    verifier = DigestVerifier(ManualClock(), realm=MUFASA["realm"], algorithms=["SHA-256", "MD5"])
    verifier.add("Mufasa", "Circle of Life")
    verifier.opaque = MUFASA["opaque"]
    verifier._nonces[MUFASA["nonce"]] = _Nonce(0.0, 0)
    fields = {**MUFASA, "algorithm": algorithm, "response": response}
    header = "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())
    assert verifier.check("GET", "/dir/index.html", header).username == "Mufasa"
    assert verifier.check("POST", "/dir/index.html", header).status == 401


def test_expected_response_equals_rfc_2617_example():
    ha1 = digest("MD5", b"Mufasa:testrealm@host.com:Circle Of Life")
    ha2 = digest("MD5", b"GET:/dir/index.html")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    found = expected_response(ha1, ha2, algorithm="MD5", nonce=nonce, qop="auth", nc="00000001", cnonce="0a4f113b")
    assert found == "6629fae49393a05397450978507c4ef1"


def test_expected_response_equals_rfc_2069_example():
    ha1 = digest("MD5", b"Mufasa:testrealm@host.com:CircleOfLife")
    ha2 = digest("MD5", b"GET:/dir/index.html")
    found = expected_response(ha1, ha2, algorithm="MD5", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093")
    assert found == "1949323746fe6a43ef61f9606e7febea"


def test_sha_512_256_is_not_truncated_sha_512():
    assert digest("SHA-512-256", b"abc") == "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
    assert digest("SHA-512-256", b"abc") != hashlib.sha512(b"abc").hexdigest()[:64]


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256"])
@pytest.mark.parametrize("sess", ["", "-sess"])
@pytest.mark.parametrize("qop", ["auth", "auth-int", "auth,auth-int"])
def test_every_algorithm_and_qop_is_accepted(authenticate, algorithm, sess, qop):
    verifier = make_verifier(algorithms=[algorithm + sess], qop=qop)
    challenge = verifier.challenges()[0]
    assert authenticate(verifier, challenge, method="POST", body=b"{}").username == "partner"
    assert (
        authenticate(verifier, challenge, method="POST", body=b"{}", nc=2, response="0" * 64).reason == "wrong digest"
    )


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256"])
def test_challenge_without_qop_is_accepted(authenticate, algorithm):
    verifier = make_verifier(algorithms=[algorithm], qop=None)
    challenge = verifier.challenges()[0]
    assert "qop" not in challenge
    assert [authenticate(verifier, challenge).status for _ in range(2)] == [200, 200]
    assert authenticate(verifier, challenge, qop="auth", nc="00000001", cnonce="x").reason == "qop not offered"


def test_auth_int_includes_body(digest_header):
    verifier = make_verifier(algorithms=["MD5"], qop="auth-int")
    header = digest_header(verifier.challenges()[0], "partner", "secret", "POST", "/", 1, b"one")
    assert verifier.needs_body(header)
    assert not verifier.needs_body(None)
    assert verifier.check("POST", "/", header, b"two").reason == "wrong digest"
    assert verifier.check("POST", "/", header, b"one").status == 200


def test_challenges_have_one_line_per_algorithm():
    lines = make_verifier(basic_first=True, realm="R").challenges()
    assert lines[0] == 'Basic realm="R"'
    assert [line.rsplit("algorithm=")[1] for line in lines[1:]] == ["SHA-256", "MD5"]
    assert all("stale" not in line for line in lines)
    assert all("stale=true" in line for line in make_verifier().challenges(stale=True))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"response": "0" * 64}, "wrong digest"),
        ({"username": "nobody"}, "wrong digest"),
        ({"realm": "elsewhere"}, "another realm"),
        ({"opaque": "x"}, "opaque not returned"),
        ({"opaque": None}, "opaque not returned"),
        ({"algorithm": "SHA-512-256"}, "algorithm not offered"),
        ({"qop": "auth-int"}, "qop not offered"),
        ({"qop": None}, "qop not offered"),
        ({"nc": "1"}, "nc or cnonce missing"),
        ({"nc": None}, "nc or cnonce missing"),
        ({"cnonce": None}, "nc or cnonce missing"),
        ({"nonce": "made-up"}, "wrong digest"),
    ],
)
def test_changed_parameter_is_refused_with_reason(digest_header, changed, reason):
    verifier = make_verifier()
    header = digest_header(verifier.challenges()[0], "partner", "secret", "GET", "/", changed=changed)
    result = verifier.check("GET", "/", header)
    assert (result.status, result.username, result.stale, result.reason) == (401, None, False, reason)


def test_nonce_of_another_server_is_unknown(authenticate):
    verifier, other = make_verifier(), make_verifier()
    other.opaque = verifier.opaque
    result = authenticate(verifier, other.challenges()[0])
    assert (result.status, result.stale, result.reason) == (401, False, "unknown nonce")


def test_uri_that_differs_from_target_gets_400(authenticate):
    verifier = make_verifier()
    assert authenticate(verifier, target="/a", actual_target="/a?b=c").status == 400
    assert authenticate(verifier, target="/a?b=%63", actual_target="/a?b=c").status == 400


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic cGFydG5lcjpzZWNyZXQ=",
        "Digest",
        "Digest username=",
        'Digest username="a" realm="b"',
        'Digest username="a", username="b"',
        'Digest username="\udc80"',
    ],
)
def test_header_that_is_no_digest_is_refused(header):
    assert parse_authorization(header) is None
    assert make_verifier().check("GET", "/", header).reason == "not a digest"


def test_parse_authorization_reads_quoted_strings():
    found = parse_authorization(r'digest Username="a\"b\\c,d" ,nc=00000001,, qop=auth, empty=""')
    assert found == {"username": r"a\"b\c,d".replace('\\"', '"'), "nc": "00000001", "qop": "auth", "empty": ""}


def test_expired_nonce_is_stale_only_with_right_digest(authenticate):
    clock = ManualClock()
    verifier = make_verifier(clock, nonce_lifetime=300)
    challenge = verifier.challenges()[0]
    clock.advance(299)
    assert authenticate(verifier, challenge).status == 200
    clock.advance(1)
    assert authenticate(verifier, challenge, nc=2).stale
    assert not authenticate(verifier, challenge, nc=3, response="0" * 64).stale


def test_rotated_nonces_are_stale(authenticate):
    verifier = make_verifier()
    challenge = verifier.challenges()[0]
    verifier.rotate_nonces()
    assert authenticate(verifier, challenge).stale
    assert authenticate(verifier, verifier.challenges()[0]).status == 200


def test_nonce_is_stale_after_nonce_uses(authenticate):
    verifier = make_verifier(nonce_uses=2)
    challenge = verifier.challenges()[0]
    assert [authenticate(verifier, challenge, nc=n).status for n in (1, 2, 3)] == [200, 200, 401]
    assert authenticate(verifier, challenge, nc=3).stale


def test_each_nc_is_accepted_once_in_any_order(authenticate):
    verifier = make_verifier()
    challenge = verifier.challenges()[0]
    assert [authenticate(verifier, challenge, nc=n).status for n in (3, 1, 3, 2, 1, 2, 4, 0)] == [
        200,
        200,
        401,
        200,
        401,
        401,
        200,
        401,
    ]
    replay = authenticate(verifier, challenge, nc=4)
    assert (replay.reason, replay.stale, replay.nc) == ("nc replayed", False, 4)


def test_strict_nc_must_increase(authenticate):
    verifier = make_verifier(strict_nc=True)
    challenge = verifier.challenges()[0]
    assert [authenticate(verifier, challenge, nc=n).status for n in (2, 1, 3, 10, 4)] == [200, 401, 200, 200, 401]


def test_nc_of_refused_request_can_be_used_again(authenticate):
    verifier = make_verifier()
    challenge = verifier.challenges()[0]
    assert authenticate(verifier, challenge, response="0" * 64).status == 401
    assert authenticate(verifier, challenge).status == 200


def test_oldest_nonce_is_forgotten_above_limit(authenticate, monkeypatch):
    monkeypatch.setattr("minted_connect.sandbox.digest_auth._MAX_NONCES", 2)
    verifier = make_verifier()
    first = verifier.challenges()[0]
    second = verifier.challenges()[0]
    verifier.challenges()
    assert authenticate(verifier, first).reason == "unknown nonce"
    assert authenticate(verifier, second).status == 200


@pytest.mark.parametrize(
    "options", [{"algorithms": ["MD4"]}, {"algorithms": []}, {"qop": "x"}, {"algorithms": ["MD5-sess"], "qop": None}]
)
def test_invalid_options_raise(options):
    with pytest.raises(ValueError):
        make_verifier(**options)


def test_username_with_colon_raises():
    with pytest.raises(ValueError, match="colon"):
        make_verifier().add("a:b", "c")
