"""The console names invalid arguments of faults, and the API continues to work."""

import contextlib
import http.client
import json
import logging
import urllib.error
import urllib.request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minted_connect.sandbox import ManualClock, ThreadedSandbox
from minted_connect.sandbox.active_faults import ARGUMENTS, KINDS

RATES = "/partner/walletable/rates"
PATIENCE = 30
COMMON = ("method", "path", "times", "after", "before_auth")
WAITS = {"hang"}  # for their removal


class Failures(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture(scope="module")
def sandbox():
    with ThreadedSandbox(clock=ManualClock(auto_advance=True), algorithms=["MD5"], log_limit=0) as server:
        yield server


@pytest.fixture(scope="module")
def failures():
    handler, logger = Failures(), logging.getLogger("minted_connect.sandbox")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def send(sandbox, text, path="/faults"):
    request = urllib.request.Request(
        f"{sandbox.console_url}{path}", text.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def call(sandbox):
    """Return the status of one API request; None if the connection was dropped."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, sandbox.url, sandbox.username, sandbox.password)
    opener = urllib.request.build_opener(urllib.request.HTTPDigestAuthHandler(passwords))
    request = urllib.request.Request(sandbox.url + RATES, headers={"x-client-id": "web"})
    try:
        with opener.open(request, timeout=PATIENCE) as response:
            response.read()
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, http.client.HTTPException, ValueError):
        return None


def works(sandbox):
    sandbox.faults.clear()
    return call(sandbox) == 200


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 700)
    | st.sampled_from([10**13, -(10**13), 10**30, 2**63, 1e308, -1e308, 5e-324, 0.5])
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", "\x00", "\r\nX: y", "*", "[", "**[!", "GET", "before", "body", "items.*.sku"])
    | st.just("a" * 2_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def faults(draw):
    kind = draw(st.sampled_from(KINDS))
    names = draw(st.lists(st.sampled_from([*COMMON, *ARGUMENTS[kind], "colour", "self"]), max_size=3, unique=True))
    given_ = {name: draw(anything) for name in names}
    if kind == "drop_field":
        given_.setdefault("field", "buy_price")
    return {"kind": kind, **given_}


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(given_=faults())
def test_a_fault_is_refused_by_name_or_works(sandbox, failures, given_):
    status, result = send(sandbox, json.dumps(given_))
    assert status in (200, 422)
    if status == 422:
        assert any(name in result["error"] for name in given_ if name != "kind")
        assert len(sandbox.faults) == 0
    else:
        (fault,) = sandbox.faults.all()
        assert fault.kind == given_["kind"]
        if fault.kind not in WAITS:
            call(sandbox)
    assert works(sandbox)
    assert failures == []


POISON = [
    ({"kind": "status", "path": {"a": 1}}, "path"),
    ({"kind": "status", "times": "x"}, "times"),
    ({"kind": "status", "method": 5}, "method"),
    ({"kind": "delay", "seconds": "x"}, "seconds"),
    ({"kind": "status", "after": "x"}, "after"),
    ({"kind": "status", "before_auth": "x"}, "before_auth"),
    ({"kind": "gzip_bomb", "size": 10**13, "path": "*/rates"}, "size"),
    ({"kind": "delay", "seconds": float("nan")}, "seconds"),
    ({"kind": "delay", "seconds": float("-inf")}, "seconds"),
    ({"kind": "delay", "seconds": -1}, "seconds"),
    ({"kind": "late_commit", "seconds": True}, "seconds"),
    ({"kind": "status", "status": 99}, "status"),
    ({"kind": "status", "headers": {"X-A": "1\r\nX-B: 2"}}, "headers"),
    ({"kind": "status", "colour": "red"}, "colour"),
    ({"kind": ["status"]}, "kind"),
    ({"kind": {}}, "kind"),
    ({"path": "*"}, "kind"),
    ({"kind": "drop_field"}, "field"),
]


@pytest.mark.parametrize(("given_", "name"), POISON)
def test_poison_is_refused_with_422(sandbox, failures, given_, name):
    status, result = send(sandbox, json.dumps(given_))
    assert (status, name in result["error"]) == (422, True)
    assert len(sandbox.faults) == 0
    assert works(sandbox)
    assert failures == []


@pytest.mark.parametrize("value", ["1.5", "0.1", "1e2", "123456789012345678901234567890", '{"a": [1.25]}'])
def test_fractions_are_sent_on_exactly(sandbox, failures, value):
    status, _ = send(sandbox, f'{{"kind": "extra_field", "field": "*.new", "value": {value}, "path": "*/rates"}}')
    assert status == 200
    assert call(sandbox) == 200
    assert works(sandbox)
    assert failures == []


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "[" * 100_000, '{"kind": "status", "times": 1' + "0" * 5_000 + "}"]
)
def test_what_is_not_a_json_object_is_refused(sandbox, failures, text):
    for path in ("/faults", "/clock", "/faults/remove"):
        status, result = send(sandbox, text, path)
        assert (status, bool(result["error"])) == (400, True)
    assert works(sandbox)
    assert failures == []


def test_a_body_that_is_not_utf_8_is_refused(sandbox, failures):
    for headers in ({"Content-Type": "application/json"}, {"Content-Type": "application/json; charset=no-such"}):
        request = urllib.request.Request(f"{sandbox.console_url}/faults", b'{"kind": "\xff"}', headers, method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused, contextlib.closing(urllib.request.urlopen(request)):
            pass
        with refused.value:
            assert refused.value.code == 400
    assert failures == []


def test_the_clock_stops_before_dates_end(failures):
    with ThreadedSandbox(clock=ManualClock()) as sandbox:
        year = {"seconds": 366 * 86_400}
        sandbox.clock.advance(6_980 * 366 * 86_400)
        assert send(sandbox, json.dumps(year), "/clock")[0] == 409
        sandbox.clock.suspend(0)
    assert failures == []
