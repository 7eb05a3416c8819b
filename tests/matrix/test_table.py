"""The matrix is complete: every cell has an outcome, and a collected test for each client proves it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.matrix.cells import FLAVOURS
from tests.matrix.table import DEVIATIONS, EFFECTS, NOT_YET, ROWS, TABLE, UNCOVERED, Outcome
from tests.matrix.world import ROOT

CELLS = [(row, effect) for row in ROWS for effect in EFFECTS]
APPLICABLE = [(row, effect) for row, effect in CELLS if row.variants(effect) != {"": Outcome.NONE}]
PROVABLE = [(row, effect) for row, effect in APPLICABLE if row.name not in UNCOVERED]
NOT_APPLICABLE = {"F46": "R", **dict.fromkeys(("F15", "F39", "F43", "F44", "F48", "F49", "F51", "F52"), "RSA")}


# Test, row, effect, rest of the id, client.
_ID = re.compile(r"tests/matrix/(\S+)\[(F\d\d)-([RSAM])-?(\S*?)-?(async|blocking)\]")
Collected = set[tuple[str, ...]]


@pytest.fixture(scope="module")
def collected() -> Collected:
    """Return every cell that pytest collects."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/matrix"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {found.groups() for line in listed.splitlines() if (found := _ID.fullmatch(line))}


def test_table_has_all_cells() -> None:
    assert [row.name for row in ROWS] == [f"F{number:02}" for number in range(1, 53)]
    assert (len(CELLS), len(APPLICABLE)) == (208, 183)
    rest = {(row.name, effect) for row, effect in CELLS} - {(row.name, effect) for row, effect in APPLICABLE}
    assert rest == {(row, effect) for row, effects in NOT_APPLICABLE.items() for effect in effects}


def test_uncovered_rows_have_no_proof() -> None:
    assert {row.name for row in ROWS if row.proof == NOT_YET} == {*UNCOVERED}
    assert all(UNCOVERED.values())


@pytest.mark.requirement(42)
def test_each_cell_has_a_test_for_both_clients(collected: Collected) -> None:
    expected = {
        (row.proved_by(effect, client), row.name, effect, client) for row, effect in PROVABLE for client in FLAVOURS
    }
    assert expected - {(test, row, effect, client) for test, row, effect, _, client in collected} == set()


def test_each_variant_of_a_cell_has_a_test(collected: Collected) -> None:
    found_variants = {(row, effect, client, *_variants(rest)) for _, row, effect, rest, client in collected}
    for row, effect in PROVABLE:
        for variant in filter(None, row.variants(effect)):
            for client in {variant} & {*FLAVOURS} or FLAVOURS:
                marked = [found for found in found_variants if found[:3] == (row.name, effect, client)]
                assert any(variant in found[3:] for found in marked), (row.name, effect, variant, client)


def _variants(rest: str) -> Iterator[str]:
    """Yield the parts of an id that can name a variant: its first word, or the client."""
    yield rest.split("-", maxsplit=1)[0].replace("_", " ")
    yield rest.rsplit("-", 1)[-1]


def test_each_test_belongs_to_a_cell(collected: Collected) -> None:
    cells = {(row.name, effect) for row, effect in PROVABLE}
    assert {(row, effect) for _, row, effect, *_ in collected} - cells == set()


def _differing() -> Iterator[tuple[str, str, str]]:
    for row, effect, variant in DEVIATIONS:
        expected = TABLE[row].variants(effect)[variant]
        if DEVIATIONS[row, effect, variant][0] is not expected:
            yield row, effect, variant


def test_deviations_differ_from_the_table() -> None:
    assert list(_differing()) == list(DEVIATIONS)
    assert all(reason for _, reason in DEVIATIONS.values())
