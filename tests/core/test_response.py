from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from minted_connect import errors
from minted_connect.core.failures import attach_request
from minted_connect.core.request import OPERATIONS, Effect, Request
from minted_connect.core.response import RawResponse, Response, parse_response
from minted_connect.errors import (
    APIError,
    MintedConnectError,
    ProtocolError,
    RateLimited,
    ServerError,
    UnexpectedRedirect,
    ValidationFailed,
)

SAMPLES = Path(__file__).parent.parent / "samples"
NOW = datetime(2026, 2, 20, 12, 0, 0, tzinfo=UTC)
QTY = "The qty must be at least 1."

update = Request(
    OPERATIONS["baskets.update_item"],
    body={
        "external_customer_id": "ea0982a7-4fd3-43ff",
        "cart_token": "SKTHzfR4HnKXmcM4",
        "sku": "MNTBAE0001",
        "qty": 0,
    },
)
read = Request(OPERATIONS["customers.get"], ("kanarya-0001",))


def raw(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> RawResponse:
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return RawResponse(status, CIMultiDict(headers or {}), content)


def failure(
    status: int, body: Any = b"", headers: dict[str, str] | None = None, request: Request = update, **options: Any
):
    with pytest.raises(MintedConnectError) as caught:
        parse_response(raw(status, body, headers), request=request, now=lambda: NOW, **options)
    # as the attempt that catches the error does
    return attach_request(caught.value, request.info, attempts=options.get("attempts", 1))


def envelope(**changes: Any) -> dict[str, Any]:
    return {"data": {}, "success": True, "code": 0, "message": "", **changes}


# --- successful responses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202])
def test_successful_response_has_the_data_of_its_envelope(status: int):
    body = b'{"data": {"total": 1777.020}, "success": true, "code": 0, "message": ""}'
    response = parse_response(raw(status, body, {"X-Request-Id": "abc-1"}), request=update)
    assert (response.status, response.data, response.request_id) == (status, {"total": Decimal("1777.02")}, "abc-1")
    assert response.headers["x-request-id"] == "abc-1"


def test_envelope_with_null_data_only_is_accepted():
    assert parse_response(raw(200, {"data": None, "success": True}), request=update).data is None


def test_204_response_has_no_data():
    assert parse_response(raw(204), request=update) == Response(204, CIMultiDict())


def test_repr_of_response_has_no_content():
    text = f"{raw(200, b'canary', {'Set-Cookie': 'canary'})!r}{Response(200, {'x': 'canary'}, data={'x': 'canary'})!r}"
    assert "canary" not in text


@pytest.mark.parametrize("value", ["", "a b", "a\nb", "ö", "x" * 129, "<script>"])
def test_invalid_request_id_is_ignored(value: str):
    assert failure(404, b"", {"X-Request-Id": value}).request_id is None
    assert failure(404, b"", {"X-Request-Id": value, "X-Correlation-Id": "good"}).request_id == "good"


# --- invalid responses -------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "body: not JSON, at character 0"),
        (b"<html>hello</html>", "body: not JSON, at character 0"),
        (b'{"data": NaN, "success": true}', "body: NaN or Infinity in place of a number"),
        (b'{"data": 1, "data": 2, "success": true}', "body: the same key twice in one object"),
        (b'{"data":' + b"[" * 80 + b"]" * 80 + b',"success":true}', "body: nested deeper than 64"),
        ([], "body: must be an object"),
        (None, "body: must be an object"),
        ({}, "success: required field missing"),
        ({"data": {}}, "success: required field missing"),
        ({"success": True}, "data: required field missing"),
        (envelope(success=1), "success: must be true or false"),
        (envelope(success="true"), "success: must be true or false"),
        (envelope(success=None), "success: must be true or false"),
    ],
)
def test_2xx_without_valid_envelope_raises_protocol_error(body: Any, problem: str):
    error = failure(200, body)
    assert type(error) is ProtocolError
    assert error.problems == (problem,)
    assert str(error) == f"PATCH /partner/walletable/basket: 200 invalid response: {problem}"


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 600, 999])
def test_invalid_status_raises_protocol_error(status: int):
    assert type(failure(status, envelope())) is ProtocolError


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 399])
def test_redirect_raises_unexpected_redirect(status: int):
    error = failure(status, envelope(), {"Location": "https://canary.example/?canary"})
    assert type(error) is UnexpectedRedirect
    assert "canary" not in str(error)


def test_success_false_with_status_200_raises_api_error():
    error = failure(200, {"success": False, "code": 13, "message": "No stock left."}, {"X-Request-Id": "abc"})
    assert type(error) is APIError
    assert (error.status, error.code, error.message, error.request_id) == (200, 13, "No stock left.", "abc")
    assert str(error) == "PATCH /partner/walletable/basket: 200 No stock left."


# --- errors by status --------------------------------------------------------------------------------------------

CLASSES = {
    400: errors.BadRequest,
    401: errors.AuthenticationFailed,
    402: APIError,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    409: errors.Conflict,
    410: APIError,
    418: APIError,
    422: ValidationFailed,
    429: RateLimited,
    499: APIError,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    599: ServerError,
}
BODIES: list[Any] = [
    b"",
    b"\xff\xfe",
    b"{",
    b"null",
    b"[" * 100_000,
    b"<html><body>Bad gateway</body></html>",
    [],
    "text",
    7,
    envelope(),
    envelope(success=False, code="x", message=None),
    envelope(success=False, code=True, message=["x"]),
    {"errors": None},
    {"errors": 5, "data": [1]},
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:30])
@pytest.mark.parametrize("status", CLASSES)
def test_error_class_depends_on_the_status_only(status: int, body: Any):
    error = failure(status, body, attempts=2)
    assert type(error) is CLASSES[status]
    assert (error.status, error.method, error.path) == (status, "PATCH", "/partner/walletable/basket")
    assert (error.attempts, error.code in {0, None}, error.body) == (2, True, None)
    assert str(error).startswith(f"PATCH /partner/walletable/basket: {status}")


@pytest.mark.parametrize(("status", "name"), [(401, "error_401"), (403, "error_403")])
def test_sample_of_refusal_sets_code_and_message(status: int, name: str):
    body = (SAMPLES / f"{name}.assumed.json").read_bytes()
    error = failure(status, body)
    assert (error.code, error.message) == (status, json.loads(body)["message"])
    assert error.message in str(error)


def test_html_page_becomes_its_text():
    body = b"<html><head><style>p {}</style><title>502</title></head><script>x</script><h1>Bad  gateway</h1></html>"
    assert failure(502, body).message == "502 Bad gateway"


@pytest.mark.parametrize("status", [403, 422, 502])
def test_html_page_is_redacted_to_one_line(status: int):
    page = f"<h1>Sorry</h1> zerrin@kanarya.example, 98765432109 {'and so on ' * 300}".encode()
    error = failure(status, page)
    for text in (error.message, *getattr(error, "fields", {}).get("", ())):
        assert text.startswith("Sorry ***, *** and so on")
        assert len(text) <= 200
    assert b"kanarya" not in pickle.dumps(error)


def test_error_without_message_has_the_reason_phrase():
    assert str(failure(409)) == "PATCH /partner/walletable/basket: 409 Conflict"
    assert str(failure(499)) == "PATCH /partner/walletable/basket: 499"


def test_code_is_read_from_vendor_envelope_only():
    assert failure(429, {"data": None, "success": False, "code": 429, "message": ""}).code == 429
    for gateway in ({"code": 429}, {"code": 429, "success": True}, {"code": 429, "success": "false"}):
        assert failure(429, gateway).code is None


def test_body_is_kept_with_keep_body_only():
    assert failure(500, b"canary").body is None
    assert failure(500, b"canary", keep_body=True).body == b"canary"
    assert failure(200, b"canary", keep_body=True).body == b"canary"
    assert "canary" not in repr(failure(200, b"canary", keep_body=True))


@pytest.mark.parametrize("name", OPERATIONS)
def test_server_error_is_safe_to_retry_if_idempotent(name: str):
    request = Request(OPERATIONS[name])
    assert failure(500, request=request).safe_to_retry == (request.effect in {Effect.READ, Effect.IDEMPOTENT})


@pytest.mark.parametrize("status", [404, 422, 429, 500, 200])
def test_pickled_or_copied_error_is_equal(status: int):
    error = failure(status, envelope(success=False, code=7, message="No."), {"X-Request-Id": "abc"}, attempts=3)
    for duplicate in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(duplicate), str(duplicate), vars(duplicate)) == (type(error), str(error), vars(error))


# --- 422 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "_plain", "_in_data"])
def test_sample_of_field_errors_sets_fields(variant: str):
    error = failure(422, (SAMPLES / f"validation_error_422{variant}.assumed.json").read_bytes())
    assert error.fields == {"qty": (QTY,)}
    assert error.message == "The given data was invalid."
    assert str(error) == f"PATCH /partner/walletable/basket: 422 qty: {QTY}"


@pytest.mark.parametrize("variant", ["_list", "_string"])
def test_sample_of_errors_without_field_sets_empty_key(variant: str):
    error = failure(422, (SAMPLES / f"validation_error_422{variant}.assumed.json").read_bytes())
    assert error.fields == {"": (QTY,)}
    assert str(error) == f"PATCH /partner/walletable/basket: 422 {QTY}"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"errors": {"qty": QTY}}, {"qty": (QTY,)}),
        ({"errors": {"qty": [QTY, "Second."], "sku": []}}, {"qty": (QTY, "Second.")}),
        ({"errors": {"qty": [QTY], "sku": None}}, {"qty": (QTY,), "sku": ()}),
        ({"errors": [{"field": "qty", "message": QTY}, "Else."]}, {"qty": (QTY,), "": ("Else.",)}),
        ({"errors": [{"field": "qty", "message": [QTY, "Second."]}]}, {"qty": (QTY, "Second.")}),
        ({"errors": [{"message": QTY}, {"field": None, "message": "Else."}]}, {"": (QTY, "Else.")}),
        ({"errors": {"shipping": {"zipcode": ["Long."]}}}, {"shipping.zipcode": ("Long.",)}),
        ({"errors": {"items.0.sku": ["Unknown."]}}, {"items.0.sku": ("Unknown.",)}),
        ({"data": {"qty": [QTY], "sku": "Unknown."}}, {"qty": (QTY,), "sku": ("Unknown.",)}),
        ({"data": {"errors": [QTY]}}, {"": (QTY,)}),
        ({"data": {"errors": QTY}}, {"": (QTY,)}),
        ({"data": {"id": 5, "sku": "MNTBAE0001"}, "message": "No."}, {"": ("No.",)}),
        ({"data": None, "success": False, "code": 422, "message": "No."}, {"": ("No.",)}),
        ({"errors": {}, "message": "No."}, {"": ("No.",)}),
        ([QTY], {"": (QTY,)}),
        (QTY, {"": (QTY,)}),
        (b"qty is wrong", {"": ("qty is wrong",)}),
        (b"<h1>Wrong</h1>", {"": ("Wrong",)}),
        (b"", {}),
        (b"{}", {}),
        ({"message": 5}, {}),
    ],
)
def test_field_errors_of_any_format_are_parsed(body: Any, fields: dict[str, tuple[str, ...]]):
    assert failure(422, body).fields == fields


# --- Retry-After -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(3)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-5", 0.0),
        ("9" * 400, 365 * 86_400.0),
        ("Fri, 20 Feb 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Feb 2026 12:00:30 -0000", 30.0),
        ("Fri, 20 Feb 2026 15:00:30 +0300", 30.0),
        ("Fri, 20 Feb 2026 11:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 365 * 86_400.0),
        *[(value, None) for value in ("", "soon", "1e5", "inf", "nan", "0x10", "٣", "1 2", "Fri, 99 Feb 2026", "+5")],
    ],
)
def test_retry_after_is_parsed_as_seconds(status: int, value: str, seconds: float | None):
    assert failure(status, b"", {"Retry-After": value}).retry_after == seconds


@pytest.mark.requirement(3)
def test_retry_after_date_counts_from_the_date_header():
    headers = {"Retry-After": "Fri, 20 Feb 2026 12:00:30 GMT", "Date": "Fri, 20 Feb 2026 12:00:20 GMT"}
    assert failure(429, b"", headers).retry_after == 10.0
    assert failure(429, b"", {**headers, "Date": "yesterday"}).retry_after == 30.0


def test_retry_after_without_header_is_none():
    assert failure(429).retry_after is None


# --- no personal data, no other error classes --------------------------------------------------------------------

CANARIES = {
    "firstname": "Zerrin", "lastname": "Kanarya", "email": "zerrin@kanarya.example", "phone": "+90 555 999 88 77",
    "identity_number": "98765432109", "birthdate": "1961-07-17", "external_id": "partner-kanarya-1",
    "shipping": {"address": "Papağan Sk. 12", "lines": ["Kafes Mah."]},
}  # fmt: skip
WORDS = ["Zerrin", "zerrin", "Kanarya", "kanarya", "999 88", "98765432109", "1961-07-17", "Papağan", "Kafes"]


@pytest.mark.parametrize("status", [200, 400, 409, 422, 500])
def test_error_of_echoed_request_has_no_personal_data(status: int):
    request = Request(OPERATIONS["customers.update"], ("partner-kanarya-1",), (("q", "Papağan"),), CANARIES)
    echo = f"Refused: {json.dumps(CANARIES, ensure_ascii=False)} https://x.example/?email=zerrin ZERRIN KANARYA"
    for body in (
        {"success": False, "message": echo},
        {"success": False, "message": "", "errors": {"email": [echo], "zerrin@kanarya.example": ["taken"]}},
        {"success": False, "message": "Zerrin Kanarya has a basket."},
        echo.encode(),
    ):
        error = failure(status, body, request=request)
        text = f"{error} {error!r}"
        assert [word for word in WORDS if word.lower() in text.lower()] == []
        assert "/partner/customer/{}" in text


def test_error_has_no_path_or_query_parameters():
    request = Request(OPERATIONS["customers.get"], ("kanarya-1",), (("q", "Papağan"),))
    error = failure(404, {"message": "No kanarya-1 and no Papağan here."}, request=request)
    assert str(error) == "GET /partner/customer/{}: 404 No *** and no *** here."


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "success", "code", "message", "errors", "field", "qty", ""]), inner, max_size=4
        )
    ),
    max_leaves=10,
)
bodies = st.one_of(st.binary(max_size=80), junk.map(lambda data: json.dumps(data).encode()))
headers = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "X-Request-Id", "Content-Type"]),
    st.text(max_size=30) | st.sampled_from(["Fri, 20 Feb 2026 12:00:30 GMT", "Mon, 1 Jan 1 00:00 +9999"]),
)


@settings(deadline=None, max_examples=400)
@given(
    st.integers(-5, 1000) | st.sampled_from([*CLASSES, 200, 201, 302]), headers, bodies, st.sampled_from([update, read])
)
@example(429, {"Retry-After": "0" * 5000}, b"", read)
@example(429, {"Retry-After": "Fri, 20 Feb 2026 12:00:30 +99999999999999999"}, b"", read)
def test_any_response_parses_or_raises_minted_connect_error(
    status: int, headers: dict[str, str], body: bytes, request_: Request
):
    try:
        response = parse_response(RawResponse(status, CIMultiDict(headers), body), request=request_, now=lambda: NOW)
    except MintedConnectError as error:
        attach_request(error, request_.info)
        assert str(error).startswith(f"{request_.operation.method} {request_.operation.path}: {status}")
        assert str(error).isprintable()
        assert len(str(error)) < 300
        assert "kanarya" not in repr(error)
        assert 0 <= (getattr(error, "retry_after", None) or 0) < float("inf")
        assert pickle.loads(pickle.dumps(error)).args == error.args
    else:
        assert 200 <= status < 300
        assert response.data == (None if status == 204 else json.loads(body)["data"])
