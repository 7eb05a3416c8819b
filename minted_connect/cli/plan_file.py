"""Reads the file of a plan: purchases with a reference each, one line for each sku.

The file is CSV in UTF-8, with commas, and with a header that names the columns in any order: customer, sku, qty,
reference and max_total. Other columns are ignored, except `currency`, which must agree with `--currency`. Empty lines
are skipped. The lines of one reference are one purchase, wherever they are in the file.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

import attrs

from minted_connect import validation
from minted_connect.errors import InvalidInput

__all__ = ["Plan", "PlannedPurchase", "parse_amount", "parse_quantity", "read_plan"]

_T = TypeVar("_T")

COLUMNS: Final = ("customer", "sku", "qty", "reference", "max_total")
_CURRENCY: Final = "currency"
_MAX_PROBLEMS: Final = 20
"""Maximum number of problems that the error lists."""
_AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?")
_QUANTITY: Final = re.compile(r"[0-9]{1,9}")
_AMOUNT_RULE: Final = "must be an amount above 0 such as 1852.60, without thousands separators"
_QUANTITY_RULE: Final = "must be a whole number from 1"


@attrs.frozen
class PlannedPurchase:
    """The purchase of one reference."""

    reference: str
    customer: str
    max_total: Decimal
    items: Mapping[str, int]
    """Number of pieces of each sku."""


@attrs.frozen
class Plan:
    """The purchases of a file, in the order in which their references first appear."""

    purchases: tuple[PlannedPurchase, ...]

    @property
    def max_total(self) -> Decimal:
        """Sum of the maximum totals."""
        return sum((one.max_total for one in self.purchases), Decimal())

    @property
    def customers(self) -> int:
        """Number of customers."""
        return len({one.customer for one in self.purchases})

    def count_pieces(self) -> dict[str, int]:
        """Return the number of pieces of each sku."""
        pieces = Counter[str]()
        for one in self.purchases:
            pieces.update(one.items)
        return dict(pieces)


@attrs.define
class _Draft:
    """The lines of one reference that were read so far."""

    line: int
    customer: str
    max_total: Decimal
    items: dict[str, int]
    lines: dict[str, int]
    """Line of each sku."""


def parse_amount(field: str, text: str) -> Decimal:
    """Parse an amount of money above 0.

    Raises:
        InvalidInput: if it is not one.
    """
    if not _AMOUNT.fullmatch(text) or not (amount := Decimal(text)):
        raise InvalidInput.of(field, _AMOUNT_RULE)
    return amount


def parse_quantity(field: str, text: str) -> int:
    """Parse a number of pieces.

    Raises:
        InvalidInput: if it is not a whole number from 1.
    """
    if not _QUANTITY.fullmatch(text) or not (quantity := int(text)):
        raise InvalidInput.of(field, _QUANTITY_RULE)
    return quantity


def read_plan(file: Path, *, currency: str) -> Plan:
    """Read and check the file of a plan.

    Args:
        file: The file.
        currency: The currency of the amounts.

    Raises:
        InvalidInput: if the file cannot be read, or breaks a rule. Each problem is named with its line and column.
    """
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidInput.of("from", f"{file} cannot be read ({type(error).__name__})") from None
    except UnicodeError:
        raise InvalidInput.of("from", f"{file} is not UTF-8: save it as CSV UTF-8") from None
    reader = _Reader(file, currency)
    reader.read(text)
    return reader.finish()


class _Reader:
    """Reads the lines of a plan and collects their problems."""

    def __init__(self, file: Path, currency: str) -> None:
        self._file = file
        self._currency = currency
        self._drafts: dict[str, _Draft] = {}
        self._problems: list[str] = []

    def read(self, text: str) -> None:
        rows = _split(text)
        try:
            first: tuple[int, list[str]] = (1, [])
            number, header = next(rows, first)
            names = self._check_header(number, header)
            for line, cells in rows if names else ():
                if len(cells) != len(header):
                    self._add(line, "", f"has {len(cells)} columns, and the header has {len(header)}")
                else:
                    self._read_row(line, {name: cells[index] for name, index in names.items()})
        except csv.Error as error:
            self._problems.append(str(error))

    def finish(self) -> Plan:
        """Return the plan.

        Raises:
            InvalidInput: if there are problems, or no purchases.
        """
        if not (self._problems or self._drafts):
            self._problems.append("has no purchases")
        if self._problems:
            count = len(self._problems)
            error = InvalidInput.of("from", f"{self._file} has {count} problem{'s' * (count > 1)}; nothing was sent")
            for problem in self._problems[:_MAX_PROBLEMS]:
                error.add_note(problem)
            if count > _MAX_PROBLEMS:
                error.add_note(f"and {count - _MAX_PROBLEMS} more")
            raise error
        return Plan(
            tuple(
                PlannedPurchase(reference, draft.customer, draft.max_total, draft.items)
                for reference, draft in self._drafts.items()
            )
        )

    def _check_header(self, line: int, header: list[str]) -> dict[str, int]:
        """Return the index of each column that is read; empty if the header has problems."""
        known = (*COLUMNS, _CURRENCY)
        for name in known:
            if header.count(name) > 1:
                self._add(line, name, "the header has this column more than once")
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            text = f"the header must name the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
            if len(header) == 1 and re.search(r"[;\t]", header[0]):
                text = "the columns must be separated by commas, not by semicolons or tabs"
            self._add(line, "", text)
        if self._problems:
            return {}
        return {name: header.index(name) for name in known if name in header}

    def _read_row(self, line: int, row: Mapping[str, str]) -> None:
        customer = self._check(line, "customer", _check_text, row["customer"])
        sku = self._check(line, "sku", _check_text, row["sku"])
        reference = self._check(line, "reference", _check_reference, row["reference"])
        quantity = self._check(line, "qty", parse_quantity, row["qty"])
        amount = self._check(line, "max_total", parse_amount, row["max_total"])
        if _CURRENCY in row and row[_CURRENCY] != self._currency:
            self._add(line, _CURRENCY, f"must be {self._currency}, as --currency")
        if customer is None or sku is None or reference is None or quantity is None or amount is None:
            return
        draft = self._drafts.setdefault(reference, _Draft(line, customer, amount, {}, {}))
        for name, value, first in (("customer", customer, draft.customer), ("max_total", amount, draft.max_total)):
            if value != first:
                self._add(line, name, f"differs from line {draft.line}, which has the same reference")
        if sku in draft.items:
            self._add(line, "sku", f"is also in line {draft.lines[sku]}, which has the same reference")
        draft.items[sku] = quantity
        draft.lines.setdefault(sku, line)

    def _check(self, line: int, column: str, check: Callable[[str, str], _T], text: str) -> _T | None:
        try:
            return check(column, text)
        except InvalidInput as error:
            self._add(line, column, error.rule)
            return None

    def _add(self, line: int, column: str, rule: str) -> None:
        self._problems.append(f"line {line}{f', {column}' if column else ''}: {rule}")


def _split(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the number of its first line.

    Raises:
        csv.Error: if the text is not CSV; the message names the line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(f"line {line}: is not CSV: {error}") from None
        if any(cells):
            yield line, cells


def _check_text(field: str, text: str) -> str:
    """Check a printable text that neither begins nor ends with a space: it would be another key than without."""
    checked = validation.text(field, text)
    if checked != checked.strip():
        raise InvalidInput.of(field, "must not begin or end with a space")
    return checked


def _check_reference(field: str, text: str) -> str:
    if len(checked := _check_text(field, text)) > validation.MAX_REFERENCE:
        raise InvalidInput.of(field, f"must have at most {validation.MAX_REFERENCE} characters")
    return checked
