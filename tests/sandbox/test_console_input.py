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
TIMEOUT = 30
COMMON = ("method", "path", "times", "after", "before_auth")
HANGING = {"hang"}  # these faults wait until they are removed


class ErrorLog(logging.Handler):
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
    handler, logger = ErrorLog(), logging.getLogger("minted_connect.sandbox")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def send(sandbox, text, path="/faults"):
    request = urllib.request.Request(
        f"{sandbox.console_url}{path}", text.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
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
        with opener.open(request, timeout=TIMEOUT) as response:
            response.read()
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, http.client.HTTPException, ValueError):
        return None


def is_usable(sandbox):
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
    arguments = {name: draw(anything) for name in names}
    if kind == "drop_field":
        arguments.setdefault("field", "buy_price")
    return {"kind": kind, **arguments}


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(arguments=faults())
def test_any_fault_is_accepted_or_named(sandbox, failures, arguments):
    status, result = send(sandbox, json.dumps(arguments))
    assert status in (200, 422)
    if status == 422:
        assert any(name in result["error"] for name in arguments if name != "kind")
        assert len(sandbox.faults) == 0
    else:
        (fault,) = sandbox.faults.all()
        assert fault.kind == arguments["kind"]
        if fault.kind not in HANGING:
            call(sandbox)
    assert is_usable(sandbox)
    assert failures == []


INVALID = [
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


@pytest.mark.parametrize(("arguments", "name"), INVALID)
def test_invalid_fault_gets_422_with_name(sandbox, failures, arguments, name):
    status, result = send(sandbox, json.dumps(arguments))
    assert (status, name in result["error"]) == (422, True)
    assert len(sandbox.faults) == 0
    assert is_usable(sandbox)
    assert failures == []


@pytest.mark.parametrize("value", ["1.5", "0.1", "1e2", "123456789012345678901234567890", '{"a": [1.25]}'])
def test_decimal_value_is_sent_exactly(sandbox, failures, value):
    status, _ = send(sandbox, f'{{"kind": "extra_field", "field": "*.new", "value": {value}, "path": "*/rates"}}')
    assert status == 200
    assert call(sandbox) == 200
    assert is_usable(sandbox)
    assert failures == []


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "[" * 100_000, '{"kind": "status", "times": 1' + "0" * 5_000 + "}"]
)
def test_body_that_is_no_json_object_gets_400(sandbox, failures, text):
    for path in ("/faults", "/clock", "/faults/remove"):
        status, result = send(sandbox, text, path)
        assert (status, bool(result["error"])) == (400, True)
    assert is_usable(sandbox)
    assert failures == []


def test_body_that_is_not_utf_8_gets_400(sandbox, failures):
    for headers in ({"Content-Type": "application/json"}, {"Content-Type": "application/json; charset=no-such"}):
        request = urllib.request.Request(f"{sandbox.console_url}/faults", b'{"kind": "\xff"}', headers, method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused, contextlib.closing(urllib.request.urlopen(request)):
            pass
        with refused.value:
            assert refused.value.code == 400
    assert failures == []


def test_clock_action_beyond_last_date_gets_409(failures):
    with ThreadedSandbox(clock=ManualClock()) as sandbox:
        year = {"seconds": 366 * 86_400}
        sandbox.clock.advance(6_980 * 366 * 86_400)
        assert send(sandbox, json.dumps(year), "/clock")[0] == 409
        sandbox.clock.suspend(0)
    assert failures == []
