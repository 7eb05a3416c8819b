from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.core.redact import redact


@pytest.mark.requirement(33)
@pytest.mark.parametrize(
    ("text", "shown"),
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
def test_what_is_shown_of_a_text(text: str, shown: str):
    assert redact(text) == shown


def test_what_was_sent_is_not_shown():
    text = "Ahmet Özer (AHMET, özer's) lives at No:1 D:2, Çekmeköy; sku MNTBAE0001 in tr, not in string."
    shown = redact(text, ["Ahmet Özer", "No:1 D:2", "Çekmeköy", "MNTBAE0001", "tr", "x", ""])
    assert shown == "*** (***, ***'s) lives at ***, ***; sku *** in ***, not in string."


def test_the_longest_secret_goes_first():
    assert redact("abcdef", ["abcd", "abcdef"]) == "***"


def test_secrets_are_no_patterns():
    assert redact("a.c abc (x", ["a.c.", "(x"]) == "a.c abc ***"


def test_a_long_text_is_cut():
    shown = redact("word " * 5_000)
    assert (len(shown), shown[-1]) == (200, "…")


@given(st.text(), st.lists(st.text(), max_size=4))
def test_anything_becomes_one_short_printable_line(text: str, secrets: list[str]):
    shown = redact(text, secrets)
    assert shown.isprintable()
    assert len(shown) <= 200
    shown.encode()


@given(st.text("ab ", max_size=20), st.text("xyz", min_size=4, max_size=8), st.text("ab ", max_size=20))
def test_a_secret_is_masked_wherever_it_stands(before: str, secret: str, after: str):
    assert secret not in redact(f"{before}{secret}{after}", [secret])


def seconds(text: str) -> float:
    return min(timeit.repeat(lambda: redact(text), number=1, repeat=3))


@pytest.mark.parametrize("unit", ["a-", "1 ", "1", "a@", "@", "?a=", "//", "A", "(", "//a", "-9/", "x?", "a"])
def test_a_hostile_text_takes_no_longer_than_a_friendly_one(unit: str):
    # A pattern that is quadratic takes about a hundred times as long at this length.
    length = 10_000
    assert seconds((unit * length)[:length]) < 20 * seconds(("word " * length)[:length])
