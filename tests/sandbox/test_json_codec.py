import json
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.sandbox.json_codec import decode, encode, format_number

scalars = st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (D("1852.60"), "1852.6"),
        (D("3.00"), "3"),
        (D(496), "496"),
        (D("0.00"), "0"),
        (D("34.7041"), "34.7041"),
        (D("1E+2"), "100"),
        (D("0.0000001"), "0.0000001"),
        (D(100), "100"),
    ],
)
def test_numbers_are_formatted_like_vendor(value, text):
    assert format_number(value) == encode(value) == text


def normalise(value):
    if isinstance(value, dict):
        return {key: normalise(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalise(item) for item in value]
    return D(value) if isinstance(value, int | D) and not isinstance(value, bool) else value


@given(values)
def test_encoded_value_decodes_to_same_value(value):
    assert normalise(json.loads(encode(value), parse_float=D)) == normalise(value)
    assert normalise(decode(encode(value).encode("ascii"))) == normalise(value)


def test_float_raises_type_error():
    with pytest.raises(TypeError, match="float"):
        encode({"price": 1.5})


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", "", b"\xff", "[" * 100_000, "1" * 5000, f"[1e{10**18}]"])
def test_invalid_json_raises_value_error(text):
    with pytest.raises(ValueError):
        decode(text)
