"""Each path of the console accepts valid requests only; a refused one names its field and changes nothing."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minted_connect import MintedConnect, Options
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from minted_connect.sandbox.active_faults import ARGUMENTS, KINDS

JSON: Final = {"Content-Type": "application/json"}
HUGE: Final = "1e9999999999999999999"
"""A number that `Decimal` cannot hold."""
ACTIONS: Final[dict[str, dict[str, Any]]] = {
    "/clock": {"seconds": 1},
    "/faults": {"kind": "status", "path": "*/nothing"},
    "/faults/remove": {"id": 1},
    "/reset_idle": {},
}
"""The paths that change something, each with a valid body."""


class ErrorLog(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ThreadedSandbox]:
    """A sandbox that has logged no error at the end."""
    handler, logger = ErrorLog(), logging.getLogger("minted_connect.sandbox")
    logger.addHandler(handler)
    with ThreadedSandbox(clock=ManualClock(auto_advance=True)) as server:
        yield server
    logger.removeHandler(handler)
    assert handler.records == []


@pytest.fixture(scope="module")
def client(sandbox: ThreadedSandbox) -> Iterator[MintedConnect]:
    with MintedConnect(
        sandbox.username, sandbox.password, base_url=sandbox.url, options=Options(clock=sandbox.clock)
    ) as found:
        yield found


def send(
    sandbox: ThreadedSandbox, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    address = urlsplit(sandbox.url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.request(method, f"/_sandbox{path}", body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def state(sandbox: ThreadedSandbox) -> tuple[object, ...]:
    faults = [(fault.kind, fault.hits) for fault in sandbox.faults.all()]
    return sandbox.clock.monotonic(), faults, sandbox.requests.total, len(sandbox.shop.customers)


def check_refused(
    sandbox: ThreadedSandbox,
    client: MintedConnect,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    statuses: set[int],
) -> str:
    """Check that a request is refused and changes nothing, and that the API and the console work; return the error."""
    before = state(sandbox)
    status, text = send(sandbox, method, path, body, headers)
    assert status in statuses, text
    assert state(sandbox) == before
    assert client.rates.current()
    assert send(sandbox, "GET", "/state")[0] == 200
    return str(json.loads(text)["error"]) if method != "HEAD" else ""


WRONG_VALUES: Final = {
    "/clock": ("seconds", ["null", "true", '"1"', "[]", "{}", "-1", "NaN", "Infinity", "-Infinity", "1e400", HUGE]),
    "/faults": ("times", ["true", '"1"', "[]", "{}", "-1", "0", "1.0", "NaN", "Infinity", "1e400", HUGE, "1" * 30]),
    "/faults/remove": ("id", ["null", "true", '"1"', "[]", "{}", "1.0", "1e0", "NaN", "Infinity", HUGE]),
}


@pytest.mark.requirement(53)
@pytest.mark.parametrize(
    ("path", "field", "value"),
    [(path, field, value) for path, (field, values) in WRONG_VALUES.items() for value in values],
)
def test_wrong_value_is_named(
    sandbox: ThreadedSandbox, client: MintedConnect, path: str, field: str, value: str
) -> None:
    valid = json.dumps({**ACTIONS[path], field: None})
    body = valid.replace(f'"{field}": null', f'"{field}": {value}').encode()
    fault = sandbox.faults.add("status", path="*/nothing")
    assert field in check_refused(sandbox, client, "POST", path, body, JSON, {400, 422})
    fault.remove()


@pytest.mark.parametrize(("path", "field"), [("/clock", "seconds"), ("/faults", "kind"), ("/faults/remove", "id")])
def test_missing_key_is_named(sandbox: ThreadedSandbox, client: MintedConnect, path: str, field: str) -> None:
    assert field in check_refused(sandbox, client, "POST", path, b"{}", JSON, {400, 422})


@pytest.mark.parametrize("path", ACTIONS)
def test_unknown_keys_are_named(sandbox: ThreadedSandbox, client: MintedConnect, path: str) -> None:
    fault = sandbox.faults.add("status", path="*/nothing")
    body = json.dumps({**ACTIONS[path], "colour": "red", "self": 1}).encode()
    error = check_refused(sandbox, client, "POST", path, body, JSON, {422})
    assert "colour" in error or "self" in error
    fault.remove()


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"1", b'"x"', b"{", b"[" * 100_000, b"\xff", b"{}{}", b"\x00"])
@pytest.mark.parametrize("path", ACTIONS)
def test_body_without_object_is_refused(
    sandbox: ThreadedSandbox, client: MintedConnect, path: str, body: bytes
) -> None:
    assert "the body must be" in check_refused(sandbox, client, "POST", path, body, JSON, {400})


@pytest.mark.parametrize("path", ACTIONS)
def test_body_that_is_too_large_or_encoded_is_refused(
    sandbox: ThreadedSandbox, client: MintedConnect, path: str
) -> None:
    body = json.dumps({**ACTIONS[path], "padding": "x" * 2_000_000}).encode()
    assert "too large" in check_refused(sandbox, client, "POST", path, body, JSON, {413})
    encoded = {**JSON, "Content-Encoding": "gzip"}
    assert "too large" in check_refused(sandbox, client, "POST", path, gzip.compress(body), encoded, {413})
    assert "decoded" in check_refused(sandbox, client, "POST", path, b"no gzip", encoded, {400})


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ACTIONS)
def test_method_of_an_action_is_post(sandbox: ThreadedSandbox, client: MintedConnect, path: str, method: str) -> None:
    check_refused(sandbox, client, method, path, json.dumps(ACTIONS[path]).encode(), JSON, {405})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["", "/", "/state"])
def test_method_of_a_page_is_get(sandbox: ThreadedSandbox, client: MintedConnect, path: str, method: str) -> None:
    check_refused(sandbox, client, method, path, b"{}", JSON, {405})


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
@pytest.mark.parametrize("path", ACTIONS)
def test_other_content_type_is_refused(
    sandbox: ThreadedSandbox, client: MintedConnect, path: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps(ACTIONS[path]).encode()
    assert "Content-Type" in check_refused(sandbox, client, "POST", path, body, headers, {415})


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "[::1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["", "/state", "/nothing", *ACTIONS])
def test_other_origin_is_refused(
    sandbox: ThreadedSandbox, client: MintedConnect, path: str, headers: dict[str, str]
) -> None:
    method = "POST" if path in ACTIONS else "GET"
    body = json.dumps(ACTIONS.get(path, {})).encode()
    check_refused(sandbox, client, method, path, body, {**JSON, **headers}, {403})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"external_customer_id": "a", "qty": %b}' % HUGE.encode(), {}, 422),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400),
    ],
)
async def test_api_refuses_body_that_cannot_be_read(
    sandbox: ThreadedSandbox, body: bytes, headers: dict[str, str], status: int
) -> None:
    sandbox.faults.clear()
    digest = aiohttp.DigestAuthMiddleware(sandbox.username, sandbox.password)
    async with aiohttp.ClientSession(middlewares=[digest]) as session:
        url = f"{sandbox.url}/partner/walletable/basket"
        await session.get(url)
        async with session.post(url, data=body, headers={**JSON, **headers, "x-client-id": "web"}) as response:
            assert response.status == status


# --- any request -------------------------------------------------------------------------------------------------

scalars: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 700),
    st.sampled_from([10**13, 10**30, 2**63, -(2**63)]),
    st.floats(),
    st.text(max_size=6),
)
values: Final = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
keys: Final = st.sampled_from(
    ["seconds", "id", "kind", "path", "times", "after", "before_auth", "method", "colour", "self", "__class__"]
)
objects: Final = st.one_of(
    st.dictionaries(keys, values, max_size=4),
    st.builds(
        lambda kind, rest: {**rest, "kind": kind}, st.sampled_from(KINDS), st.dictionaries(keys, values, max_size=2)
    ),
    st.sampled_from(KINDS).flatmap(
        lambda kind: st.dictionaries(st.sampled_from([*ARGUMENTS[kind], "path"]), values, max_size=3).map(
            lambda rest: {**rest, "kind": kind}
        )
    ),
)
bodies: Final = st.one_of(
    objects.map(lambda found: json.dumps(found).encode()),
    values.map(lambda found: json.dumps(found).encode()),
    objects.map(lambda found: json.dumps(found).replace("1", HUGE).encode()),
    st.binary(max_size=20),
)
request_headers: Final = st.fixed_dictionaries(
    {"Content-Type": st.sampled_from(["application/json", "application/json; charset=x", "text/plain", ""])},
    optional={
        "Origin": st.sampled_from(["null", "http://127.0.0.1", "x"]),
        "Sec-Fetch-Site": st.sampled_from(["none", "same-origin", "cross-site", ""]),
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "identity", "x"]),
        "Host": st.sampled_from(["localhost", "127.0.0.1:1", "[", ""]),
    },
)
paths: Final = st.sampled_from(["", "/", "/state", "/nothing", "/clock?seconds=1", "/faults/", "/%2e", *ACTIONS])
methods: Final = st.sampled_from(["POST"] * 6 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])


@pytest.mark.requirement(53)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(method=methods, path=paths, body=bodies, headers=st.just(JSON) | request_headers)
def test_any_request_is_accepted_or_changes_nothing(
    sandbox: ThreadedSandbox, client: MintedConnect, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    before = state(sandbox)
    status, text = send(sandbox, method, path, body, headers)
    assert status == 200 or 400 <= status < 500
    if status != 200:
        assert state(sandbox) == before
        # aiohttp itself may refuse a body that cannot be decompressed, in plain text.
        assert method == "HEAD" or "Content-Encoding" in headers or json.loads(text)["error"]
    sandbox.faults.clear()
    assert client.rates.current()
