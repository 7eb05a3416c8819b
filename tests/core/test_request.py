from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.core.request import OPERATIONS, Effect, EvidenceLevel, Request, check_paths
from minted_connect.errors import ConfigurationError, InvalidInput

printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


def test_operations_are_the_19_of_the_vendor():
    assert len(OPERATIONS) == 19
    assert {name: operation.name for name, operation in OPERATIONS.items()} == {name: name for name in OPERATIONS}
    assert {"complete.buy", "complete.sell", "complete.delivery"} == {
        name for name, operation in OPERATIONS.items() if operation.effect is Effect.COMPLETE
    }
    assert {"customers.create", "baskets.update_item"} == {
        name for name, operation in OPERATIONS.items() if operation.evidence is EvidenceLevel.DOCUMENTED
    }


def test_operations_are_reads_exactly_if_they_use_get():
    for operation in OPERATIONS.values():
        assert (operation.method == "GET") == (operation.effect is Effect.READ), operation.name


@given(printable)
def test_path_parameter_is_encoded_as_one_segment(value: str):
    request = Request(OPERATIONS["customers.get"], (value,))
    if value in {".", ".."}:
        with pytest.raises(InvalidInput):
            request.target({})
        return
    target = request.target({})
    assert target.isascii()
    segments = urlsplit(f"http://host{target}").path.split("/")
    assert segments[:3] == ["", "partner", "customer"]
    assert [value] == [unquote(segment) for segment in segments[3:]]


@pytest.mark.parametrize("value", ["", ".", "..", "a\r\nb", "a\x00b", "a\x7fb", "\ud800", "a\u2028b"])
def test_unsafe_path_parameter_is_refused(value: str):
    with pytest.raises(InvalidInput) as caught:
        Request(OPERATIONS["orders.invoice"], (value,)).target({})
    assert caught.value.field == "id"
    assert value == "" or value not in str(caught.value) or value in {".", ".."}


@given(st.lists(st.tuples(printable, printable)))
def test_query_encoded_and_parsed_is_equal(pairs: list[tuple[str, str]]):
    target = Request(OPERATIONS["orders.page"], query=pairs).target({})
    assert pairs == parse_qsl(urlsplit(f"http://host{target}").query, strict_parsing=bool(pairs))


def test_braces_in_a_parameter_are_encoded():
    assert Request(OPERATIONS["orders.invoice"], ("{}",)).target({}) == "/partner/order/%7B%7D/invoice"


def test_corrected_path_is_used_with_its_parameter():
    paths = check_paths({"customers.get": "/v2/people/{}/card"})
    assert Request(OPERATIONS["customers.get"], ("ab",)).target(paths) == "/v2/people/ab/card"


@pytest.mark.parametrize(
    "paths",
    [
        {"customers.fetch": "/partner/customer/{}"},
        {"customers.get": "/partner/customer"},
        {"customers.get": "partner/customer/{}"},
        {"rates.current": "/partner/../rates"},
        {"rates.current": "//evil.example/rates"},
        {"rates.current": "/rates?x=1"},
        {"rates.current": "/rates\r\n"},
        {"rates.current": "https://evil.example/rates"},
    ],
)
def test_invalid_path_correction_is_refused(paths: dict[str, str]):
    with pytest.raises(ConfigurationError, match=r"Options\.paths"):
        check_paths(paths)


def test_route_of_raw_request_hides_its_path():
    operation = OPERATIONS["customers.get"]
    raw = Request(type(operation)("request", "GET", "/secret/id", Effect.READ, EvidenceLevel.INFERRED, "raw"))
    assert raw.route == "(raw)"
    assert Request(operation, ("id",)).route == "/partner/customer/{}"


def test_repr_of_request_has_no_personal_data():
    request = Request(OPERATIONS["customers.get"], ("canary-id",), (("q", "canary-q"),), {"email": "canary@x.example"})
    assert "canary" not in repr(request)
