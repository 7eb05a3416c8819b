"""CSV files that are written for a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from minted_connect.cli.files import format_csv


def read_cells(*cells: object) -> list[str]:
    _, row = csv.reader(io.StringIO(format_csv(["name"] * len(cells), [cells]), newline=""))
    return row


@pytest.mark.parametrize(
    "formula",
    [
        '=HYPERLINK("http://evil","x")',
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "-",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1",
        "+90 555 000",
    ],
)
def test_format_csv_formula_becomes_text(formula):
    assert read_cells(formula, "x") == [f"'{formula}", "x"]


@pytest.mark.parametrize(
    "cell",
    [
        "592.34",
        "-0.10",
        "+1",
        "1E+3",
        "-1.5e-7",
        "gold",
        "a=b",
        "2026-02-20T12:27:57+00:00",
        "",
        "a\r=1",
        "a\n=1",
        "a\r\nb",
    ],
)
def test_format_csv_number_or_plain_text_is_unchanged(cell):
    assert read_cells(cell, "x") == [cell, "x"]


def test_format_csv_values_of_other_types_are_unchanged():
    assert read_cells(-5, None, True) == ["-5", "", "True"]
