"""Plans whose processes are killed and started again; `python -m tests.completion.plans` runs large ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from minted_connect.models import IntentState
from tests.completion.fakes import intent_of
from tests.completion.plans import __main__ as program
from tests.completion.plans.plan import Settings
from tests.completion.plans.result import Result
from tests.completion.plans.run import run

pytestmark = pytest.mark.anyio

CONFIRMED, UNKNOWN = IntentState.CONFIRMED, IntentState.UNKNOWN
ONE = Settings(customers=1)
[PURCHASE] = ONE.purchases()


@pytest.mark.requirement(47)
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("journal", "policy", "reads_basket"),
    [("sqlite", "known", "execution"), ("postgres", "known", "arrival"), ("postgres", "default", "execution")],
)
async def test_killed_processes_buy_each_reference_at_most_once(
    journal: Any, policy: Any, reads_basket: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(journal=journal, starts=3, customers=12, policy=policy, reads_basket=reads_basket, seed=2026)
    result = await run(settings)
    with capsys.disabled():
        sys.stdout.write(f"\n{result}\n")
    assert result.violations == []
    assert result.orders <= 12
    assert result.confirmed + result.open == 12
    if policy == "known":
        assert (result.orders, result.confirmed) == (12, 12)
    # The run is only meaningful if processes were killed, and requests met faults.
    assert result.killed >= 4
    assert result.faults.total() > 5


@pytest.mark.parametrize(
    ("orders", "intents", "outcomes", "is_pending", "expected"),
    [
        ([1], [(CONFIRMED, 1)], [1], False, None),
        ([1, 2], [(CONFIRMED, 1)], [1], False, "2 orders"),
        ([], [(CONFIRMED, 1)], [], False, "confirmed as"),
        ([2], [(CONFIRMED, 1)], [2], False, "confirmed as"),
        ([1], [(CONFIRMED, 1), (CONFIRMED, 1)], [1], False, "confirmed by 2 intents"),
        ([1], [(CONFIRMED, 1), (UNKNOWN, None)], [1], True, "open too"),
        ([1], [], [1], False, "neither confirmed nor open"),
        ([], [], ["NotSent"], False, "neither confirmed nor open"),
        ([1], [(CONFIRMED, 1)], [1, "open"], False, "outcomes"),
        ([1], [(CONFIRMED, 1)], [3], False, "outcomes"),
    ],
)
def test_violation_is_reported(
    orders: list[int], intents: list[Any], outcomes: list[Any], is_pending: bool, expected: str | None
) -> None:
    result = Result(ONE)
    result.check(
        PURCHASE,
        [{"id": number} for number in orders],
        [intent_of(state=state, order_id=number) for state, number in intents],
        set(outcomes),
        is_pending=is_pending,
    )
    assert any(expected in text for text in result.violations) if expected else result.violations == []


def test_order_of_other_items_is_reported() -> None:
    result = Result(ONE)
    planned = {"customer": PURCHASE.customer, "items": PURCHASE.items}
    result.check_orders([planned])
    assert result.violations == []
    result.check_orders([{**planned, "items": {"MNTBAE0001": 99}}])
    assert len(result.violations) == 1


@pytest.mark.parametrize(("violations", "status"), [([], 0), (["an order too many"], 1)])
def test_program_exits_with_status_for_violations(
    violations: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run_nothing(settings: Settings) -> Result:
        return Result(settings, violations=violations)

    monkeypatch.setattr(program, "run", run_nothing)
    assert program.main(["--policy", "default", "--starts", "2", "--reads-basket", "arrival"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == violations
    assert lines[-1].startswith("default, sqlite, arrival, seed 1: 200 customers; 0 orders")
