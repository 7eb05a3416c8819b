from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.core.redact import redact


@pytest.mark.requirement(33)
@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("The qty must be at least 1.", "The qty must be at least 1."),
        ("external_customer_id is required", "external_customer_id is required"),
        ("a price of 1777.02 AED", "a price of 1777.02 AED"),
        ("mail john.due+x@example.com now", "mail *** now"),
        ("<jöhn@exämple.com>", "<***>"),
        ("call +90 532 280 80 35!", "call ***!"),
        ("call (0532) 280-80-35", "call (***"),
        ("id 12345678910", "id ***"),
        ("id 1234 5678 910", "id ***"),
        ("born 1970-01-31", "born ***"),
        ("٠١٢٣٤٥", "***"),
        ("basket 2695BF07-6963-40FD-9777-21670640745B", "basket ***"),
        ("token SKTHzfR4HnKXmcM4XeHfFRUPq6n3jJGL.", "token ***."),
        ("see https://x.example/a?token=1&b=2 there", "see https://x.example/a?*** there"),
        ("see https://user:word@x.example/a", "see https://x.example/a"),
        ("a\r\nb\tc\x00d\x1b[31m\u202e", "a b c d [31m"),
        ("", ""),
        ("x" * 9, "xxxxxxxxx"),
    ],
)
def test_redact_masks_personal_data(text: str, redacted: str):
    assert redact(text) == redacted


def test_redact_masks_the_given_secrets():
    text = "Ahmet Özer (AHMET, özer's) lives at No:1 D:2, Çekmeköy; sku MNTBAE0001 in tr, not in string."
    redacted = redact(text, ["Ahmet Özer", "No:1 D:2", "Çekmeköy", "MNTBAE0001", "tr", "x", ""])
    assert redacted == "*** (***, ***'s) lives at ***, ***; sku *** in ***, not in string."


def test_redact_masks_the_longest_secret_first():
    assert redact("abcdef", ["abcd", "abcdef"]) == "***"


def test_redact_takes_secrets_literally():
    assert redact("a.c abc (x", ["a.c.", "(x"]) == "a.c abc ***"


def test_redact_truncates_a_long_text():
    redacted = redact("word " * 5_000)
    assert (len(redacted), redacted[-1]) == (200, "…")


@given(st.text(), st.lists(st.text(), max_size=4))
def test_redact_of_any_text_returns_one_short_printable_line(text: str, secrets: list[str]):
    redacted = redact(text, secrets)
    assert redacted.isprintable()
    assert len(redacted) <= 200
    redacted.encode()


@given(st.text("ab ", max_size=20), st.text("xyz", min_size=4, max_size=8), st.text("ab ", max_size=20))
def test_redact_masks_a_secret_at_any_position(before: str, secret: str, after: str):
    assert secret not in redact(f"{before}{secret}{after}", [secret])


def seconds(text: str) -> float:
    return min(timeit.repeat(lambda: redact(text), number=1, repeat=3))


@pytest.mark.parametrize("unit", ["a-", "1 ", "1", "a@", "@", "?a=", "//", "A", "(", "//a", "-9/", "x?", "a"])
def test_redact_takes_linear_time(unit: str):
    # A quadratic pattern takes about a hundred times as long for a text of this length.
    length = 10_000
    assert seconds((unit * length)[:length]) < 20 * seconds(("word " * length)[:length])
