"""The client side of HTTP Digest: RFC vectors, parsing, choice of a challenge, rules after a 401, concurrent calls."""

import asyncio
import copy
import gc
import hashlib
import pickle
import re
import unicodedata
from itertools import count
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect.core.auth import challenge as challenge_module
from minted_connect.core.auth import digest
from minted_connect.core.auth.challenge import Challenge, ChallengeRefused, Terms, parse_challenges
from minted_connect.core.auth.digest import DigestAuth

pytestmark = pytest.mark.anyio

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256, "SHA-512-256": lambda data: hashlib.new("sha512_256", data)}
ALGORITHMS = [name + suffix for name in HASHES for suffix in ("", "-sess")]


@pytest.fixture
def anyio_backend():
    return "asyncio"


# --- an independent implementation of RFC 7616, to compare with --------------------------------------------------


def parse_authorization(header):
    """Return the parameters of an Authorization header. Strict: syntax that RFC 7616 does not allow fails."""
    assert header.startswith("Digest ")
    found, rest = {}, header.removeprefix("Digest ")
    while rest:
        match = re.match(r'([a-z*]+)=(?:"((?:[^"\\]|\\["\\])*)"|([^",\s]+))(?:, (?=.)|$)', rest)
        assert match, rest
        name, quoted, bare = match.groups()
        assert name not in found
        assert (bare is None) == (name in {"username", "realm", "nonce", "uri", "response", "cnonce", "opaque"})
        found[name] = re.sub(r"\\(.)", r"\1", quoted) if bare is None else bare
        rest = rest[match.end() :]
    return found


def expected_response(given, *, user, password, method, body=b""):
    """Compute the response for the parameters of a header, step by step as in RFC 7616 section 3.4.1."""
    algorithm = given.get("algorithm", "MD5").upper()
    make = HASHES[algorithm.removesuffix("-SESS")]

    def h(*parts):
        return make(b":".join(part if isinstance(part, bytes) else part.encode() for part in parts)).hexdigest()

    ha1 = h(user, given["realm"], password)
    if algorithm.endswith("-SESS"):
        ha1 = h(ha1, given["nonce"], given["cnonce"])
    covered = [make(body).hexdigest()] if given.get("qop") == "auth-int" else []
    ha2 = h(method, given["uri"], *covered)
    if "qop" in given:
        return h(ha1, given["nonce"], given["nc"], given["cnonce"], given["qop"], ha2)
    return h(ha1, given["nonce"], ha2)


class Server:
    """Responds like a server whose nonces are valid for `uses` requests, and counts the requests."""

    def __init__(self, password="secret", *, realm="r", algorithm="SHA-256", qop="auth", uses=10**9, sends_stale=True):
        self.password, self.realm, self.algorithm, self.qop = password, realm, algorithm, qop
        self.uses, self.sends_stale = uses, sends_stale
        self.unsigned = self.signed = 0
        self.next_nonce = None
        self._names = count(1)
        self.nonces = {}

    @property
    def requests(self):
        return self.unsigned + self.signed

    def challenge(self, *, stale=False):
        nonce = f"nonce-{next(self._names)}"
        self.nonces[nonce] = set()
        parts = [f'realm="{self.realm}"', f'nonce="{nonce}"', f"algorithm={self.algorithm}"]
        return ["Digest " + ", ".join(parts + [f'qop="{self.qop}"'] * bool(self.qop) + ["stale=true"] * stale)]

    def forget(self):
        self.nonces.clear()

    async def __call__(self, method, target, authorization, body=b""):
        await asyncio.sleep(0)
        if authorization is None:
            self.unsigned += 1
            return 401, self.challenge()
        self.signed += 1
        given = parse_authorization(authorization)
        if given["response"] != expected_response(
            given, user="partner", password=self.password, method=method, body=body
        ):
            return 401, self.challenge()
        seen = self.nonces.get(given["nonce"])
        if seen is None or len(seen) >= self.uses or given.get("nc") in seen:
            return 401, self.challenge(stale=self.sends_stale)
        seen.add(given.get("nc", object()))
        return 200, [f'nextnonce="{self.next_nonce}"'] if self.next_nonce else []


async def call(auth, server, method="GET", target="/", body=b""):
    """Make one call as the transport does; return its status."""
    async with auth.auth_flow() as flow:
        while True:
            status, values = await server(method, target, flow.header(method, target, body), body)
            if status != 401:
                flow.on_success(values)
                return status
            if not flow.on_challenge(values):
                return status


def first_signed_parameters(
    challenge, *, method="GET", target="/", body=b"", user="partner", password="secret", policy="any"
):
    """Return the parameters that a new client sends after a challenge."""
    flow = DigestAuth(user, password, policy=policy).auth_flow()
    assert flow.header(method, target, body) is None
    assert flow.on_challenge([challenge] if isinstance(challenge, str) else challenge)
    return parse_authorization(flow.header(method, target, body))


# --- vectors -----------------------------------------------------------------------------------------------------

RFC7616_NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
RFC7616_OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
RFC7616 = [
    f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="{RFC7616_NONCE}", '
    f'opaque="{RFC7616_OPAQUE}"'
    for algorithm in ("SHA-256", "MD5")
]


def fix_cnonce(monkeypatch, value):
    monkeypatch.setattr(digest.secrets, "token_urlsafe", lambda _: value)


@pytest.mark.parametrize(
    ("offer", "algorithm", "response"),
    [
        (RFC7616[1:], "MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        (RFC7616, "SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_rfc_7616_section_3_9_1(monkeypatch, offer, algorithm, response):
    fix_cnonce(monkeypatch, "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    assert first_signed_parameters(offer, target="/dir/index.html", user="Mufasa", password="Circle of Life") == {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "nonce": RFC7616_NONCE,
        "opaque": RFC7616_OPAQUE,
        "algorithm": algorithm,
        "qop": "auth",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "nc": "00000001",
        "uri": "/dir/index.html",
        "response": response,
    }


JASON = (
    'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, charset=UTF-8, userhash=%s, '
    'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS"'
)
# Erratum 4897: the hash printed in RFC 7616 is not that of its example.
JASON_HASH = "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
JASON_RESPONSE = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("userhash", [True, False])
def test_rfc_7616_section_3_9_2(monkeypatch, form, userhash):
    fix_cnonce(monkeypatch, "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v")
    name = unicodedata.normalize(form, "Jäsøn Doe")
    given = first_signed_parameters(JASON % userhash, target="/doe.json", user=name, password="Secret, or not?")
    assert given["response"] == JASON_RESPONSE
    if userhash:
        assert (given["username"], given["userhash"]) == (JASON_HASH, "true")
    else:
        assert given["username*"] == "UTF-8''J%C3%A4s%C3%B8n%20Doe"
        assert "username" not in given


def test_rfc_2617_section_3_5(monkeypatch):
    fix_cnonce(monkeypatch, "0a4f113b")
    given = first_signed_parameters(
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"',
        target="/dir/index.html",
        user="Mufasa",
        password="Circle Of Life",
    )
    assert given["response"] == "6629fae49393a05397450978507c4ef1"
    assert "algorithm" not in given  # echoed only when the server sent it


def test_rfc_2069_as_corrected_by_erratum_749():
    given = first_signed_parameters(
        'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="x"',
        target="/dir/index.html",
        user="Mufasa",
        password="CircleOfLife",
    )
    assert given["response"] == "1949323746fe6a43ef61f9606e7febea"
    assert not given.keys() & {"qop", "nc", "cnonce"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("qop", ["auth", "auth-int", ""])
async def test_each_algorithm_and_qop_signs_three_requests(algorithm, qop):
    server, auth = Server(algorithm=algorithm, qop=qop), DigestAuth("partner", "secret")
    for number in range(3):
        assert await call(auth, server, "POST", f"/a?n={number}", b'{"q": 1}') == 200
    assert (server.unsigned, server.signed) == (1, 3)
    assert auth.pinned == Terms("r", algorithm.removesuffix("-sess"), qop)


def test_auth_int_response_covers_the_body():
    offer = 'Digest realm="r", nonce="n", qop="auth-int"'
    for body in (b"", b"body", bytes(range(256))):
        given = first_signed_parameters(offer, method="POST", body=body)
        assert given["response"] == expected_response(
            given, user="partner", password="secret", method="POST", body=body
        )
        assert given["response"] != expected_response(
            given, user="partner", password="secret", method="POST", body=b"x"
        )


async def test_sess_algorithm_keeps_cnonce_for_each_nonce():
    # RFC 7616 section 3.4.2: HA1 holds the first cnonce; some servers read the current one instead.
    server, auth = Server(algorithm="SHA-256-sess"), DigestAuth("partner", "secret")
    headers = []

    async def spy(method, target, header, body):
        headers.append(header)
        return await server(method, target, header, body)

    for _ in range(3):
        assert await call(auth, spy) == 200
    given = [parse_authorization(header) for header in headers if header]
    assert len({parameters["cnonce"] for parameters in given}) == 1
    assert [parameters["nc"] for parameters in given] == ["00000001", "00000002", "00000003"]


# --- parsing -----------------------------------------------------------------------------------------------------

N = Challenge("r", "n")
TABLE = {
    "plain": (['Digest realm="r", nonce="n"'], [N]),
    "case and spacing": (['dIGEST\t REALM = "r" ,,  Nonce="n" ,'], [N]),
    "unquoted": (["Digest realm=r, nonce=n, stale=TRUE, qop=auth"], [Challenge("r", "n", qop=("auth",), stale=True)]),
    "quoted tokens": (
        ['Digest realm="r", nonce="n", algorithm="sha-256", qop="AUTH , auth-int", stale="false", userhash="true"'],
        [Challenge("r", "n", algorithm="sha-256", qop=("auth", "auth-int"), userhash=True)],
    ),
    "unquoted qop list": (['Digest realm="r", qop=auth,auth-int, nonce="n"'], [Challenge("r", "n", qop=("auth",))]),
    "unquoted spaced list": (["Digest realm=r, qop=auth , auth-int , nonce=n"], [Challenge("r", "n", qop=("auth",))]),
    "unquoted base64 nonce": (["Digest realm=r, nonce=a/b+c=="], [Challenge("r", "a/b+c==")]),
    "escapes and commas": (
        [r'Digest realm="a \"b\", nonce=\"x\\", nonce="n,\n"'],
        [Challenge('a "b", nonce="x\\', "n,n")],
    ),
    "a challenge inside a string": (['Custom x="Digest realm=\\"e\\", nonce=\\"e\\"", Digest realm=r, nonce=n'], [N]),
    "basic first, same line": (['Basic realm="b", charset="UTF-8", Digest realm="r", nonce="n"'], [N]),
    "basic first, own line": (['Basic realm="b"', 'Digest realm="r", nonce="n"'], [N]),
    "basic last": (['Digest realm="r", nonce="n", Basic realm="b", nonce="b"'], [N]),
    "token68": (["Negotiate YIIB+/==, NTLM, Bearer abc=, Digest realm=r, nonce=n, Negotiate"], [N]),
    "two in a line": (
        ['Digest realm="r", nonce="n", Digest realm="r", nonce="m", algorithm=SHA-256'],
        [N, Challenge("r", "m", algorithm="SHA-256")],
    ),
    "two lines": (['Digest realm="r", nonce="n"', 'Digest nonce="m", realm="r"'], [N, Challenge("r", "m")]),
    "no commas": (['Digest realm="r" nonce="n" qop="auth"'], [Challenge("r", "n", qop=("auth",))]),
    "repeated parameter": (['Digest realm="r", nonce="n", nonce="evil"'], [N]),
    "unknown parameters": (['Digest realm="r", x=1, nonce="n", y="z"'], [N]),
    "everything": (
        ['Digest realm="r", nonce="n", opaque="", domain="/a  https://b/", charset=utf-8'],
        [Challenge("r", "n", opaque="", charset="utf-8", domain=("/a", "https://b/"))],
    ),
    "non-ASCII realm": (['Digest realm="Altın Gümüş", nonce="n"'], [Challenge("Altın Gümüş", "n")]),
    "empty nonce": (['Digest realm="r", nonce=""'], [Challenge("r", "")]),
    "no nonce": (['Digest realm="r"'], [Challenge("r", "")]),
    "no realm": (['Digest nonce="n"'], []),
    "control characters": (['Digest realm="r\r\nX: y", nonce="n"', 'Digest realm="r", nonce="\x00"'], []),
    "bytes that were not UTF-8": (['Digest realm="\udcfc", nonce="n"'], []),
    "empty": (["", " ", ","], []),
    "bare scheme": (["Digest", "Digest ", "Digest ,"], []),
    "unterminated": (['Digest realm="r", nonce="n'], [Challenge("r", "")]),
    "garbage": (["=,==\"\\ @@ Digest = nonce='", 'Digest @ realm="r"; nonce="n"'], [N]),
    "no scheme": (['realm="r", nonce="n"'], []),
}


@pytest.mark.parametrize(("values", "challenges"), TABLE.values(), ids=TABLE)
def test_parse_challenges(values, challenges):
    assert parse_challenges(values) == challenges


@settings(deadline=None)  # a busy machine must not fail the test
@given(st.lists(st.text() | st.text('Diges =",\\\trealmnoc/'), max_size=4))
def test_parse_challenges_of_any_text_never_raises(values):
    for challenge in parse_challenges(values):
        assert challenge.realm.isprintable()


@pytest.mark.parametrize("text", ["a", '"', "a=", 'a="', "Digest ", '\\"', "a ", ",", 'a="\\'])
def test_parse_challenges_takes_linear_time(text):
    # 800 kB: quadratic time would take minutes, and the test's time limit ends it.
    value = text * (800_000 // len(text))
    parse_challenges([value, "Digest " + value])


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")).filter(str.isprintable)


@st.composite
def challenges(draw):
    return Challenge(
        realm=draw(NAMES),
        nonce=draw(NAMES.filter(bool)),
        opaque=draw(st.none() | NAMES),
        algorithm=draw(st.none() | st.sampled_from(ALGORITHMS)),
        qop=draw(st.sampled_from([(), ("auth",), ("auth-int",), ("auth-int", "auth"), ("x", "auth")])),
        userhash=draw(st.booleans()),
        charset=draw(st.none() | st.just("UTF-8")),
    )


def header_value(challenge, draw):
    """Return a header value for a challenge, in one of the equivalent spellings."""

    def quoted(text):
        return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'

    parts = {"realm": quoted(challenge.realm), "nonce": quoted(challenge.nonce)}
    if challenge.opaque is not None:
        parts["opaque"] = quoted(challenge.opaque)
    if challenge.algorithm is not None:
        parts["algorithm"] = draw(st.sampled_from([challenge.algorithm, quoted(challenge.algorithm)]))
    if challenge.qop:
        parts["qop"] = quoted(draw(st.sampled_from([",", ", ", " ,"])).join(challenge.qop))
    if challenge.charset is not None:
        parts["charset"] = challenge.charset
    if challenge.userhash:
        parts["userhash"] = "true"
    names = draw(st.permutations(sorted(parts)))
    equals, comma = draw(st.sampled_from(["=", " = "])), draw(st.sampled_from([",", ", ", " , ,\t"]))
    return "Digest " + comma.join(f"{name}{equals}{parts[name]}" for name in names)


@settings(deadline=None)  # a busy machine must not fail the test
@given(st.data(), challenges(), NAMES, st.text(st.characters(codec="utf-8")), st.binary(max_size=20))
def test_response_to_any_challenge_is_as_in_rfc_7616(data, challenge, user, password, body):
    value = header_value(challenge, data.draw)
    assert parse_challenges([value]) == [challenge]
    given = first_signed_parameters(value, method="PATCH", target="/a?b=%20c", body=body, user=user, password=password)
    if challenge.charset:
        user, password = (unicodedata.normalize("NFC", text) for text in (user, password))
    wanted = expected_response(given, user=user, password=password, method="PATCH", body=body)
    assert given["response"] == wanted
    assert (given["realm"], given["nonce"], given.get("opaque")) == (challenge.realm, challenge.nonce, challenge.opaque)
    assert given.get("algorithm") == challenge.algorithm
    if challenge.userhash:
        make = HASHES[challenge.hash_name]
        assert given["username"] == make(f"{user}:{challenge.realm}".encode()).hexdigest()
    elif "username*" in given:
        assert unquote(given["username*"].removeprefix("UTF-8''")) == user
        assert challenge.charset
        assert not user.isascii()
    else:
        assert given["username"] == user


# --- choice of a challenge ---------------------------------------------------------------------------------------


def offer(algorithm="MD5", *, qop="auth", realm="r", nonce="n", stale=False):
    return f'Digest realm="{realm}", nonce="{nonce}", algorithm={algorithm}, qop="{qop}"' + ", stale=true" * stale


@pytest.mark.parametrize(
    ("values", "algorithm", "qop"),
    [
        ([offer(), offer("SHA-512-256"), offer("SHA-256")], "SHA-512-256", "auth"),
        ([offer(), offer("sha-256")], "sha-256", "auth"),
        ([offer("SHA-256-sess"), offer("MD5")], "SHA-256-sess", "auth"),
        ([offer("SHA-256-sess"), offer("SHA-256")], "SHA-256", "auth"),
        ([offer("SHA3-512"), offer("TOKEN", qop=""), offer()], "MD5", "auth"),
        ([offer("SHA-256", nonce=""), offer()], "MD5", "auth"),
        ([offer("SHA-256", qop="auth-conf"), offer()], "MD5", "auth"),
        ([offer(qop="auth-int,auth")], "MD5", "auth"),
        ([offer(qop="auth-int")], "MD5", "auth-int"),
        ([offer(qop="")], "MD5", None),
        ([offer(qop=""), offer(qop="auth-int")], "MD5", "auth-int"),
        (['Basic realm="r"', offer()], "MD5", "auth"),
    ],
)
def test_strongest_offered_challenge_is_chosen(values, algorithm, qop):
    given = first_signed_parameters(values)
    assert (given["algorithm"], given.get("qop")) == (algorithm, qop)


def test_hash_that_openssl_lacks_is_not_chosen(monkeypatch):
    monkeypatch.delitem(challenge_module.HASHES, "SHA-512-256")
    assert first_signed_parameters([offer("SHA-512-256"), offer()])["algorithm"] == "MD5"
    assert reason([offer("SHA-512-256")]) == "no Digest algorithm on offer is supported"


def test_find_hashes_leaves_out_disabled_hashes(monkeypatch):
    def refuse(*_):
        raise ValueError("disabled for FIPS")

    monkeypatch.setattr(hashlib, "md5", refuse)
    monkeypatch.setattr(hashlib, "new", refuse)
    assert [name for name, _ in challenge_module.find_hashes()] == ["SHA-256"]


def reason(values, **options):
    with pytest.raises(ChallengeRefused) as caught:
        first_signed_parameters(values, password="hunter2", **options)
    assert "hunter2" not in repr(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (['Basic realm="r"'], "no Digest authentication is on offer"),
        (["garbage"], "no Digest authentication is on offer"),
        ([offer(nonce="")], "the Digest challenge has no nonce"),
        ([offer("SHA-1"), offer("MD4")], "no Digest algorithm on offer is supported"),
        ([offer(qop="auth-conf")], "no quality of protection on offer is supported"),
    ],
)
@pytest.mark.parametrize("policy", ["any", "modern"])
def test_unsupported_challenge_is_refused(values, message, policy):
    assert reason(values, policy=policy) == message


def test_modern_policy_refuses_md5_and_missing_qop():
    for values in ([offer()], [offer("MD5-sess")], [offer("SHA-256", qop="")]):
        assert "modern" in reason(values, policy="modern")
    assert first_signed_parameters([offer("MD5"), offer("SHA-256")], policy="modern")["algorithm"] == "SHA-256"


# --- the pinned realm and algorithm ------------------------------------------------------------------------------


def authenticated(*values):
    """Return the authentication of a client that the server accepted once, which pins its terms."""
    auth = DigestAuth("partner", "hunter2")
    flow = auth.auth_flow()
    assert flow.on_challenge(values)
    assert auth.pinned is None
    flow.header("GET", "/")
    flow.on_success()
    return auth


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (offer("SHA-256"), offer("MD5")),
        (offer("SHA-256"), offer("MD5-sess")),
        (offer("SHA-512-256"), offer("SHA-256")),
        (offer("MD5"), offer("MD5", qop="")),
        (offer("MD5", qop="auth-int"), offer("MD5", qop="auth")),
        (offer("MD5"), offer("SHA-256", qop="")),
        (offer("MD5"), offer("MD5", realm="other")),
        (offer("MD5"), offer("SHA-256", realm="other")),
        (offer("MD5"), 'Basic realm="r"'),
        (offer("MD5"), offer("MD5", nonce="")),
    ],
)
@pytest.mark.parametrize("stale", [False, True])
def test_weaker_challenge_after_success_is_refused(first, later, stale):
    flow = authenticated(first).auth_flow()
    assert flow.header("GET", "/")
    with pytest.raises(ChallengeRefused) as caught:
        flow.on_challenge([later + ", stale=true" * stale])
    assert "hunter2" not in str(caught.value)


def test_stronger_challenge_is_accepted_and_pinned():
    auth = authenticated(offer("MD5"))
    for algorithm in ("MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256"):
        flow = auth.auth_flow()
        flow.header("GET", "/")
        assert flow.on_challenge([offer(algorithm, stale=True), offer("MD5", realm="other")])
        assert parse_authorization(flow.header("GET", "/"))["algorithm"] == algorithm
        flow.on_success()
        assert auth.pinned == Terms("r", algorithm.removesuffix("-sess"), "auth")


def test_pinned_auth_int_is_kept():
    auth = authenticated(offer(qop="auth-int"))
    flow = auth.auth_flow()
    flow.header("GET", "/")
    assert flow.on_challenge([offer(qop="auth,auth-int", stale=True)])
    assert parse_authorization(flow.header("GET", "/"))["qop"] == "auth-int"


def test_late_success_on_weaker_terms_keeps_the_pin():
    auth = authenticated(offer("MD5"))
    late, strong = auth.auth_flow(), auth.auth_flow()
    late.header("GET", "/")
    strong.header("GET", "/")
    assert strong.on_challenge([offer("SHA-256", stale=True)])
    strong.on_success()
    late.on_success()
    assert auth.pinned == Terms("r", "SHA-256", "auth")


def test_first_of_two_realms_to_succeed_is_pinned():
    auth = DigestAuth("partner", "secret")
    first, second = auth.auth_flow(), auth.auth_flow()
    assert first.on_challenge([offer("MD5")])
    assert second.on_challenge([offer("SHA-256", realm="other")])
    first.on_success()
    second.on_success()
    assert auth.pinned == Terms("r", "MD5", "auth")


def test_unsigned_success_pins_nothing():
    auth = DigestAuth("partner", "secret")
    auth.auth_flow().on_success()
    assert auth.pinned is None


# --- after a 401 -------------------------------------------------------------------------------------------------


async def test_authenticated_calls_send_one_request_each():
    server, auth = Server(), DigestAuth("partner", "secret")
    for _ in range(50):
        assert await call(auth, server) == 200
    assert (server.unsigned, server.signed) == (1, 50)


async def test_wrong_password_is_sent_once_per_call():
    server, auth = Server("right"), DigestAuth("partner", "wrong")
    for _ in range(10):
        assert await call(auth, server) == 401
    assert (server.unsigned, server.signed) == (1, 10)
    assert auth.pinned is None


async def test_wrong_password_in_concurrent_calls_is_sent_once_each():
    server, auth = Server("right"), DigestAuth("partner", "wrong")
    assert await asyncio.gather(*(call(auth, server) for _ in range(10))) == [401] * 10
    assert (server.unsigned, server.signed) == (1, 10)


async def test_password_changed_on_server_and_back_is_accepted():
    server, auth = Server(sends_stale=False), DigestAuth("partner", "secret")
    assert await call(auth, server) == 200
    server.password = "other"
    assert await call(auth, server) == 401
    assert server.signed == 3  # the known nonce, then a fresh one, which proves that the password is wrong
    assert await call(auth, server) == 401
    assert server.signed == 4
    server.password = "secret"
    assert await call(auth, server) == 200
    assert server.signed == 5
    server.forget()
    assert await call(auth, server) == 200
    assert server.requests == 8


@pytest.mark.parametrize("sends_stale", [True, False])
async def test_forgotten_nonce_is_renewed(sends_stale):
    server, auth = Server(sends_stale=sends_stale), DigestAuth("partner", "secret")
    assert await call(auth, server) == 200
    server.forget()
    assert await call(auth, server) == 200
    assert await call(auth, server) == 200
    assert (server.unsigned, server.signed) == (1, 4)


@pytest.mark.parametrize("sends_stale", [True, False])
@pytest.mark.parametrize("uses", [1, 10])
async def test_concurrent_calls_with_short_lived_nonces_succeed(sends_stale, uses):
    server, auth = Server(uses=uses, sends_stale=sends_stale), DigestAuth("partner", "secret")
    for _ in range(10):
        assert await asyncio.gather(*(call(auth, server) for _ in range(64))) == [200] * 64
    assert server.requests <= 1 + 2 * 640


@pytest.mark.requirement(30)
async def test_stale_nonce_is_renewed_once_per_call():
    sent = []

    async def always_stale(method, target, header, body):
        sent.append(header)
        return 401, [offer("SHA-256", nonce=f"n{len(sent)}", stale=header is not None)]

    auth = DigestAuth("partner", "secret")
    assert await call(auth, always_stale) == 401
    assert [header and parse_authorization(header)["nonce"] for header in sent] == [None, "n1", "n2"]
    assert await call(auth, always_stale) == 401
    assert [parse_authorization(header)["nonce"] for header in sent[3:]] == ["n3", "n4"]


@pytest.mark.parametrize("other_succeeded", [True, False])
def test_first_nonce_used_up_by_other_calls_is_renewed(other_succeeded):
    auth = DigestAuth("partner", "secret")
    leader, follower = auth.auth_flow(), auth.auth_flow()
    assert leader.on_challenge([offer(nonce="first")])
    leader.header("GET", "/")
    follower.header("GET", "/")
    if other_succeeded:
        follower.on_success()
    assert leader.on_challenge([offer(nonce="second")]) is other_succeeded
    assert parse_authorization(leader.header("GET", "/"))["nonce"] == "second"
    assert not leader.on_challenge([offer(nonce="third")])


async def test_call_signs_again_with_nonce_of_its_challenge():
    auth = authenticated(offer(nonce="shared"))
    first, second = auth.auth_flow(), auth.auth_flow()
    for flow, nonce in ((first, "one"), (second, "two")):
        flow.header("GET", "/")
        assert flow.on_challenge([offer(nonce=nonce, stale=True)])
    assert parse_authorization(second.header("GET", "/"))["nonce"] == "two"
    assert parse_authorization(first.header("GET", "/"))["nonce"] == "one"
    # A renewed nonce is shared once it was accepted; a nonce that is accepted later does not replace it.
    assert parse_authorization(auth.auth_flow().header("GET", "/"))["nonce"] == "shared"
    second.on_success()
    first.on_success()
    third = parse_authorization(auth.auth_flow().header("GET", "/"))
    assert (third["nonce"], third["nc"]) == ("two", "00000002")


@pytest.mark.parametrize("outcome", ["a 5xx", ConnectionResetError])
async def test_renewed_nonce_is_kept_when_its_call_fails(outcome):
    auth = authenticated(offer(nonce="old"))
    try:
        async with auth.auth_flow() as flow:
            flow.header("GET", "/")
            assert flow.on_challenge([offer(nonce="new", stale=True)])
            flow.header("GET", "/")
            if outcome is ConnectionResetError:
                raise outcome
    except ConnectionResetError:
        pass
    given = parse_authorization(auth.auth_flow().header("GET", "/"))
    assert (given["nonce"], given["nc"]) == ("new", "00000002")


def test_401_without_challenge_is_not_answered():
    auth = authenticated(offer())
    flow = auth.auth_flow()
    flow.header("GET", "/")
    assert not flow.on_challenge([])
    assert parse_authorization(auth.auth_flow().header("GET", "/"))["nc"] == "00000003"


def nonce_after_info(*values, algorithm="MD5"):
    auth = authenticated(offer(algorithm))
    flow = auth.auth_flow()
    flow.header("GET", "/")
    flow.on_success(values)
    return parse_authorization(auth.auth_flow().header("GET", "/"))["nonce"]


def test_nextnonce_replaces_the_nonce():
    assert nonce_after_info('rspauth="x", nextnonce="m"') == "m"
    assert nonce_after_info("qop=auth", "NextNonce=m") == "m"
    assert nonce_after_info('nextnonce=""') == "n"
    assert nonce_after_info('nextnonce="\r\n"') == "n"
    assert nonce_after_info("garbage", "=") == "n"
    assert nonce_after_info('nextnonce="m"', algorithm="MD5-sess") == "n"


def test_nextnonce_for_a_replaced_nonce_is_ignored():
    auth = authenticated(offer())
    late, other = auth.auth_flow(), auth.auth_flow()
    late.header("GET", "/")
    other.header("GET", "/")
    other.on_success(['nextnonce="m"'])
    late.on_success(['nextnonce="z"'])
    assert parse_authorization(auth.auth_flow().header("GET", "/"))["nonce"] == "m"


async def test_nonce_counts_of_concurrent_calls_are_sequential():
    server, auth = Server(), DigestAuth("partner", "secret")
    await call(auth, server)
    headers = []

    async def spy(method, target, header, body):
        headers.append(parse_authorization(header))
        return await server(method, target, header, body)

    await asyncio.gather(*(call(auth, spy, target=f"/{number}") for number in range(200)))
    assert [int(given["nc"], 16) for given in headers] == list(range(2, 202))
    assert server.requests == 202


# --- concurrent first calls: one leads, the others follow --------------------------------------------------------


@pytest.mark.requirement(30)
async def test_64_concurrent_first_calls_send_65_requests():
    server, auth = Server(), DigestAuth("partner", "secret")
    assert await asyncio.gather(*(call(auth, server) for _ in range(64))) == [200] * 64
    assert (server.unsigned, server.signed) == (1, 64)


class GatedServer(Server):
    """Holds unsigned requests until `gate` is set, then fails the first `failures` of them."""

    def __init__(self, failures=0, **options):
        super().__init__(**options)
        self.failures, self.gate = failures, asyncio.Event()
        self.waiting = self.peak = 0

    async def __call__(self, method, target, authorization, body=b""):
        if authorization is None:
            self.waiting += 1
            self.peak = max(self.peak, self.waiting)
            try:
                await self.gate.wait()
                if self.failures:
                    self.failures -= 1
                    raise ConnectionResetError
            finally:
                self.waiting -= 1
        return await super().__call__(method, target, authorization, body)


async def run_loop():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_failed_leader_is_replaced_by_one_other_call():
    server, auth = GatedServer(failures=1), DigestAuth("partner", "secret")
    calls = [asyncio.create_task(call(auth, server)) for _ in range(8)]
    await run_loop()
    server.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], ConnectionResetError)
    assert results[1:] == [200] * 7
    assert (server.peak, server.unsigned, server.signed) == (1, 1, 7)


async def test_cancelled_leader_is_replaced_by_one_other_call():
    server, auth = GatedServer(), DigestAuth("partner", "secret")
    calls = [asyncio.create_task(call(auth, server)) for _ in range(8)]
    await run_loop()
    calls[0].cancel()
    await run_loop()
    assert server.waiting == 1
    server.gate.set()
    assert await asyncio.gather(*calls[1:]) == [200] * 7
    assert calls[0].cancelled()
    assert (server.peak, server.unsigned, server.signed) == (1, 1, 7)


async def test_cancelled_follower_does_not_affect_other_calls():
    server, auth = GatedServer(), DigestAuth("partner", "secret")
    calls = [asyncio.create_task(call(auth, server)) for _ in range(8)]
    await run_loop()
    calls[3].cancel()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await call(auth, server)
    await run_loop()
    assert calls[3].done()
    server.gate.set()
    assert await asyncio.gather(*calls[:3], *calls[4:]) == [200] * 7
    assert (server.unsigned, server.signed) == (1, 7)


async def test_calls_after_two_failed_leaders_stop_waiting():
    server, auth = GatedServer(), DigestAuth("partner", "secret")
    calls = [asyncio.create_task(call(auth, server)) for _ in range(8)]
    for waiting in (1, 1, 6):  # after two failed leaders, no call waits any more
        await run_loop()
        assert server.waiting == waiting
        calls.pop(0).cancel()
    server.gate.set()
    assert await asyncio.gather(*calls) == [200] * 5
    assert await call(auth, server) == 200


async def test_challenge_to_any_call_releases_the_followers():
    server, auth = GatedServer(), DigestAuth("partner", "secret")
    calls = [asyncio.create_task(call(auth, server)) for _ in range(3)]
    for _ in range(2):
        await run_loop()
        calls.pop(0).cancel()
    await run_loop()
    assert server.waiting == 1  # the last call leads
    late = asyncio.create_task(call(auth, server))
    await run_loop()
    await auth.auth_flow().__aexit__()  # a flow that did not wait and got no response
    await run_loop()
    assert server.waiting == 1
    ahead = auth.auth_flow()  # a flow that did not wait and got a challenge
    assert ahead.on_challenge(server.challenge())
    await run_loop()
    assert late.done()
    assert not calls[0].done()
    server.gate.set()
    assert await asyncio.gather(*calls, late) == [200, 200]


async def test_leader_cancelled_with_its_successor_is_replaced():
    server, auth = GatedServer(), DigestAuth("partner", "secret")
    calls = [asyncio.create_task(call(auth, server)) for _ in range(3)]
    await run_loop()
    calls[0].cancel()
    calls[1].cancel()
    await run_loop()
    assert server.waiting == 1
    server.gate.set()
    assert await calls[2] == 200


async def test_challenge_to_the_leader_releases_the_followers():
    auth = DigestAuth("partner", "secret")
    async with auth.auth_flow() as leader:
        assert leader.header("GET", "/") is None
        follower = asyncio.create_task(call(auth, Server()))
        await run_loop()
        assert not follower.done()
        assert leader.on_challenge([offer("SHA-256")])
        await run_loop()
        assert follower.done()
    assert await follower == 200


async def test_unsigned_success_releases_the_followers():
    async def open_server(method, target, header, body):
        await asyncio.sleep(0)
        assert header is None
        return 200, []

    auth = DigestAuth("partner", "secret")
    assert await asyncio.gather(*(call(auth, open_server) for _ in range(8))) == [200] * 8


async def test_followers_do_not_wait_for_body_of_unsigned_success():
    auth = DigestAuth("partner", "secret")
    async with auth.auth_flow() as leader:
        follower = asyncio.create_task(call(auth, Server()))
        await run_loop()
        leader.on_success()
        await run_loop()
        assert follower.done()


async def test_refused_challenge_releases_the_followers():
    async def basic_only(method, target, header, body):
        await asyncio.sleep(0)
        return 401, ['Basic realm="r"']

    auth = DigestAuth("partner", "secret")
    results = await asyncio.gather(*(call(auth, basic_only) for _ in range(8)), return_exceptions=True)
    assert {type(result) for result in results} == {ChallengeRefused}


def test_auth_created_outside_a_loop_works_in_several_loops():
    server, auth = Server(), DigestAuth("partner", "secret")

    async def burst():
        return await asyncio.gather(*(call(auth, server) for _ in range(4)))

    assert asyncio.run(burst()) == asyncio.run(burst()) == [200] * 4
    assert (server.unsigned, server.signed) == (1, 8)


# --- what goes into the header, and secrets ----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["", "/a b", '/"', "/\\", "/\r\nX: y", "/\n", "/ü", "/\x7f", "/\x00"])
def test_target_not_encoded_as_sent_is_refused(target):
    flow = authenticated(offer()).auth_flow()
    with pytest.raises(ValueError) as caught:
        flow.header("GET", target)
    assert target not in str(caught.value) or not target


@pytest.mark.parametrize("target", ["/", "*", "/a?b=%22c&d[]=e'f;g@h!{}|^`~", "/%F0%9F%AA%99"])
def test_encoded_target_is_signed_unchanged(target):
    assert first_signed_parameters(offer(), target=target)["uri"] == target


@pytest.mark.parametrize("name", ["a\r\nX: y", "a\x00", "a\tb", "\udc80"])
def test_user_name_invalid_in_a_header_is_refused(name):
    with pytest.raises(ValueError):
        DigestAuth(name, "secret")


def test_user_name_with_quotes_or_umlauts_is_encoded():
    assert first_signed_parameters(offer(), user='a"b\\c, d=e')["username"] == 'a"b\\c, d=e'
    # Without a charset in the challenge, UTF-8 is used, as in browsers.
    given = first_signed_parameters(offer(), user="Gümüş")
    assert given["username"] == "Gümüş"
    assert given["response"] == expected_response(given, user="Gümüş", password="secret", method="GET")


def test_charset_in_a_later_challenge_normalises_password():
    auth = DigestAuth("partner", "s\u0327ifre")  # a decomposed character
    for charset, password in (("", "s\u0327ifre"), (", charset=UTF-8", "\u015fifre")):
        flow = auth.auth_flow()
        flow.header("GET", "/")
        assert flow.on_challenge([offer(stale=True) + charset])
        given = parse_authorization(flow.header("GET", "/"))
        assert given["response"] == expected_response(given, user="partner", password=password, method="GET")


async def test_password_is_requested_once_per_realm_and_algorithm():
    requested = []

    def password():
        requested.append(1)
        return "secret"

    server, auth = Server(algorithm="MD5", uses=2), DigestAuth("partner", password)
    assert not requested
    for _ in range(5):
        assert await call(auth, server) == 200
    assert len(requested) == 1
    server.algorithm = "SHA-256"
    server.forget()
    assert await call(auth, server) == 200
    assert len(requested) == 2


def test_ha1_of_another_realm_is_not_reused():
    auth = DigestAuth("partner", "secret")
    for realm in ("r", "other"):
        flow = auth.auth_flow()
        assert flow.on_challenge([offer(realm=realm)])
        given = parse_authorization(flow.header("GET", "/"))
        assert given["response"] == expected_response(given, user="partner", password="secret", method="GET")


@pytest.mark.requirement(31)
def test_repr_has_no_secret_and_pickling_is_refused():
    auth = authenticated(offer("SHA-256"))
    flow = auth.auth_flow()
    flow.header("GET", "/")
    for instance in (auth, flow, flow._signer, auth._state):
        for text in (repr(instance), str(instance), f"{instance}"):
            assert text == f"<{type(instance).__name__}>"
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="holds credentials"):
                attempt(instance)
        assert not hasattr(instance, "__dict__")
    assert "hunter2" not in repr(auth.pinned)


def test_auth_is_freed_without_the_cycle_collector():
    gc.disable()
    try:
        before = len([instance for instance in gc.get_objects() if isinstance(instance, digest.Signer)])
        authenticated(offer())
        assert len([instance for instance in gc.get_objects() if isinstance(instance, digest.Signer)]) == before
    finally:
        gc.enable()
