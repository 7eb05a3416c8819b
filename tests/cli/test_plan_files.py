"""Reading the file of a plan: every rule, and the line and column of each problem."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from minted_connect import InvalidInput
from minted_connect.cli.plan_file import Plan, PlannedPurchase, read_plan

HEADER = "customer,sku,qty,reference,max_total"
ROW = "c-1,GOLD,2,r-1,100.00"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plan.csv"


def read(file: Path, *lines: str) -> Plan:
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return read_plan(file, currency="AED")


def problems(file: Path, *lines: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        read(file, *lines)
    count = len(caught.value.__notes__)
    assert str(caught.value) == f"from: {file} has {count} problem{'s' * (count > 1)}; nothing was sent"
    return caught.value.__notes__


def test_lines_of_one_reference_are_one_purchase(file: Path) -> None:
    plan = read(file, HEADER, "c-1,GOLD,2,r-1,100.00", "c-2,GOLD,1,r-2,50", "c-1,SILVER,3,r-1,100")
    assert plan.purchases == (
        PlannedPurchase("r-1", "c-1", Decimal(100), {"GOLD": 2, "SILVER": 3}),
        PlannedPurchase("r-2", "c-2", Decimal(50), {"GOLD": 1}),
    )
    assert (plan.customers, plan.max_total, plan.count_pieces()) == (2, Decimal(150), {"GOLD": 3, "SILVER": 3})


def test_columns_in_any_order_and_other_columns_are_read(file: Path) -> None:
    plan = read(file, "note,reference,max_total,sku,qty,customer", "=1+1,r-1,100.00,GOLD,2,c-1")
    assert plan.purchases == (PlannedPurchase("r-1", "c-1", Decimal(100), {"GOLD": 2}),)


@pytest.mark.parametrize(
    "text", [f"\ufeff{HEADER}\r\n{ROW}\r\n", f"\n{HEADER}\n\n,,,,\n{ROW}", f'{HEADER}\n"c-1",{ROW[4:]}']
)
def test_spreadsheet_text_is_read(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    assert len(read_plan(file, currency="AED").purchases) == 1


def test_currency_column_must_agree(file: Path) -> None:
    header = f"{HEADER},currency"
    assert len(read(file, header, f"{ROW},AED").purchases) == 1
    assert problems(file, header, f"{ROW},USD", "c-2,GOLD,1,r-2,50,") == [
        "line 2, currency: must be AED, as --currency",
        "line 3, currency: must be AED, as --currency",
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (",GOLD,2,r-1,100", "customer: must not be empty"),
        ("c\u200b1,GOLD,2,r-1,100", "customer: must be printable, without line breaks"),
        ("c-1 ,GOLD,2,r-1,100", "customer: must not begin or end with a space"),
        ("c-1, GOLD,2,r-1,100", "sku: must not begin or end with a space"),
        ("c-1,GOLD,2,r-1 ,100", "reference: must not begin or end with a space"),
        ("c-1,GOLD,2,,100", "reference: must not be empty"),
        (f"c-1,GOLD,2,{'r' * 201},100", "reference: must have at most 200 characters"),
        *(
            (f"c-1,GOLD,{qty},r-1,100", "qty: must be a whole number from 1")
            for qty in ("0", "-1", "1.0", "", " 1", "١", "1e1")
        ),
        *(
            (
                f"c-1,GOLD,1,r-1,{total}",
                "max_total: must be an amount above 0 such as 1852.60, without thousands separators",
            )
            for total in ("0", "0.00", "-1", "", "1e3", "NaN", "1.", '"1,852.60"', " 1", "١")
        ),
        ("c-1,GOLD,1,r-1", "has 4 columns, and the header has 5"),
        ("c-1,GOLD,1,r-1,1852,60", "has 6 columns, and the header has 5"),
    ],
)
def test_problem_of_a_row_names_line_and_column(file: Path, row: str, problem: str) -> None:
    separator = ", " if ":" in problem else ": "
    assert problems(file, HEADER, "c-0,GOLD,1,r-0,1", row) == [f"line 3{separator}{problem}"]


def test_lines_of_a_reference_that_differ_are_named(file: Path) -> None:
    lines = (HEADER, "c-1,GOLD,1,r-1,100", "c-2,SILVER,1,r-1,100", "c-1,BAR,1,r-1,99.99", "c-1,GOLD,2,r-1,100.0")
    assert problems(file, *lines) == [
        "line 3, customer: differs from line 2, which has the same reference",
        "line 4, max_total: differs from line 2, which has the same reference",
        "line 5, sku: is also in line 2, which has the same reference",
    ]


def test_all_problems_are_listed(file: Path) -> None:
    assert problems(file, HEADER, ",,0,r-1,x", "c-1,GOLD,1,r-2,100", "c-1,GOLD,x,r-3,100") == [
        "line 2, customer: must not be empty",
        "line 2, sku: must not be empty",
        "line 2, qty: must be a whole number from 1",
        "line 2, max_total: must be an amount above 0 such as 1852.60, without thousands separators",
        "line 4, qty: must be a whole number from 1",
    ]


def test_more_than_twenty_problems_are_counted(file: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(file, HEADER, *(f"c-1,GOLD,0,r-{number},100" for number in range(25)))
    assert " has 25 problems" in str(caught.value)
    assert caught.value.__notes__[-2:] == ["line 21, qty: must be a whole number from 1", "and 5 more"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((), "line 1: the header must name the columns customer, sku, qty, reference, max_total; missing: customer"),
        (("customer,sku,qty,reference,max_totl", ROW), "line 1: the header must name the columns"),
        ((ROW,), "line 1: the header must name the columns"),
        ((HEADER.replace(",", ";"), ROW.replace(",", ";")), "line 1: the columns must be separated by commas"),
        ((f"{HEADER},qty", f"{ROW},3"), "line 1, qty: the header has this column more than once"),
        ((f"{HEADER},currency,currency", ROW), "line 1, currency: the header has this column more than once"),
        (("", HEADER.upper(), ROW), "line 2: the header must name the columns"),
        ((HEADER,), "has no purchases"),
        ((HEADER, 'c-1,"GOLD"x,1,r-1,100'), "line 2: is not CSV: "),
        ((HEADER, ROW, 'c-1,"GOLD,1,r-1,100'), "line 3: is not CSV: "),
    ],
)
def test_file_that_is_no_plan_is_refused(file: Path, lines: tuple[str, ...], problem: str) -> None:
    (found,) = problems(file, *lines)
    assert found.startswith(problem)


def test_row_over_several_lines_is_named_by_its_first(file: Path) -> None:
    rows = ('"c\n1",GOLD,1,r-1,100', "c-1,GOLD,0,r-2,100")
    assert problems(file, HEADER, *rows) == [
        "line 2, customer: must be printable, without line breaks",
        "line 4, qty: must be a whole number from 1",
    ]


def test_file_that_cannot_be_read_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^from: .*plan\.csv cannot be read \(FileNotFoundError\)$"):
        read_plan(file, currency="AED")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_plan(tmp_path, currency="AED")
    file.write_bytes(f"{HEADER}\nm\xfcller{ROW[3:]}\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="is not UTF-8"):
        read_plan(file, currency="AED")


def test_error_does_not_contain_values(file: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(file, HEADER, "secret-customer ,secret-sku ,secret-qty,secret-reference ,secret-total")
    assert "secret" not in f"{caught.value} {caught.value.__notes__}"
