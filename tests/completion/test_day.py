"""A small simulated day on both databases; `python -m tests.completion.day` runs a large one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

from minted_connect.audit import AuditReport, Finding, FindingKind
from tests.completion.day import __main__ as program
from tests.completion.day.clock import run_counting
from tests.completion.day.plan import Settings
from tests.completion.day.planted import planted
from tests.completion.day.result import Result
from tests.completion.day.run import run

pytestmark = pytest.mark.anyio


@pytest.mark.requirement(54)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("journal", ["sqlite", "postgres"])
async def test_day_under_faults_is_clean_and_within_limits(journal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(journal=journal, purchases=60, kills=1)
    # On an event loop in a thread, whose selector counts.
    result = await anyio.to_thread.run_sync(run_counting, partial(run, settings))
    with capsys.disabled():
        sys.stdout.write(f"\n{result}\n")
    assert result.violations == []
    assert result.kills == 1
    assert result.findings == 5
    # The day is only meaningful under faults, and if a reconciler had something to settle.
    assert result.faults.total() > 20
    assert result.reconciled > 0


def check(change: Callable[[Result], object]) -> list[str]:
    result = Result(Settings(purchases=60))
    change(result)
    return result.violations


def outcomes(result: Result, **other: int | str) -> None:
    plan = {purchase.reference: 1 for purchase in result.settings.plan()}
    limits = dict(zip(plan, ("per_purchase", "per_customer_per_day", "per_day"), strict=False))
    changed = {reference: other[name] for reference, name in zip(list(plan)[3:], other, strict=False)}
    result.check_outcomes([{"errors": {}, "outcomes": {**plan, **limits, **changed}}, {"errors": {}, "outcomes": {}}])


def test_outcomes_of_a_clean_day_are_no_violations() -> None:
    assert check(outcomes) == []


def test_purchase_without_order_or_limit_is_reported() -> None:
    [text] = check(lambda result: outcomes(result, failed="NotSent: no connection"))
    assert "NotSent" in text


def test_reference_with_two_orders_is_reported() -> None:
    reference = Settings(purchases=60).plan()[5].reference
    texts = check(
        lambda result: result.check_outcomes([{"errors": {}, "outcomes": {reference: one}} for one in (1, 2)])
    )
    assert f"{reference} has the orders [1, 2]" in texts


FOUND = Finding(FindingKind.ORDER_FAILED, "text", ("intent",), (7,))
DAY = date(2026, 3, 2)


@pytest.mark.parametrize(
    ("findings", "count", "violations"),
    [
        ([FOUND], 1, []),
        ([], 0, ["not found", "exit code"]),
        ([FOUND, FOUND], 1, ["found: order_failed"]),
        ([Finding(FindingKind.ORDER_FAILED, "text", ("other",), (7,))], 0, ["not found", "found"]),
    ],
)
def test_audit_must_name_the_planted_discrepancies(findings: Any, count: int, violations: list[str]) -> None:
    result = Result(Settings(purchases=60))
    result.check_planted(AuditReport(DAY, DAY, tuple(findings)), [planted(FOUND)])
    assert result.findings == count
    assert len(result.violations) == len(violations)
    for text, violation in zip(result.violations, violations, strict=True):
        assert violation in text


@pytest.mark.parametrize(("violations", "status"), [([], 0), (["an order too many"], 1)])
def test_program_exits_with_status_for_violations(
    violations: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run_nothing(settings: Settings, _: object) -> Result:
        return Result(settings, violations=violations)

    monkeypatch.setattr(program, "run", run_nothing)
    assert program.main(["--purchases", "60", "--journal", "postgres"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == violations
    assert lines[-1].startswith("postgres, seed 1: 60 purchases in 3 processes; 0 orders")
