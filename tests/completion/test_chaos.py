"""Hundreds of purchases under random faults; `python -m tests.completion.chaos` makes thousands."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

from minted_connect.completion import execution
from minted_connect.completion.classify import FailureClass, classify
from minted_connect.completion.reconcile import ReadBack
from minted_connect.core import retry
from minted_connect.core.request import Effect
from tests.completion.chaos.__main__ import main
from tests.completion.chaos.result import VIOLATION_KINDS
from tests.completion.chaos.run import run
from tests.completion.chaos.stopping import cancel_at_step

pytestmark = pytest.mark.anyio
without_logs = pytest.mark.usefixtures("fast_loop")


@pytest.fixture
async def fast_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Switch off the debug checks of asyncio and the log records, which would dominate the run time."""
    caplog.set_level(logging.CRITICAL, "minted_connect")
    asyncio.get_running_loop().set_debug(False)


@without_logs
@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("single_shot", [True, False])
async def test_random_faults_make_no_double_and_no_lost_order(
    single_shot: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    result = await run(150, seed=2026, single_shot=single_shot)
    with capsys.disabled():
        sys.stdout.write(f"\n{result}\n")
    assert result.reports == []
    assert (result.purchases, result.violations.total()) == (150, 0)
    # The run is only meaningful if every kind of outcome occurred.
    occurred = [
        result.first_outcomes[name] for name in ("confirmed", "unknown", "refused", "not sent", "cancelled", "crashed")
    ]
    occurred += [result.later_outcomes[name] for name in ("found", "still unknown, never executed")]
    assert min(occurred) > 0
    assert result.orders < 150
    assert result.faults.total() > 100
    assert result.faults["refusal"] > 5


@pytest.mark.requirement(12)
@without_logs
async def test_client_that_resends_completions_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = retry._max_attempts

    def retry_completions(effect: Effect, *failed: Any) -> int:
        return 2 if effect is Effect.COMPLETE else attempts(effect, *failed)

    monkeypatch.setattr(retry, "_max_attempts", retry_completions)
    result = await run(200, seed=5, single_shot=False)
    assert result.violations["double"] + result.violations["posted twice"] == len(result.reports) > 0


@without_logs
async def test_client_that_confirms_refusals_at_once_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_settled(read_back: ReadBack, *_: object) -> bool:
        return read_back._intent.refusal is not None

    monkeypatch.setattr(ReadBack, "_is_refusal_settled", is_settled)
    result = await run(200, seed=5)
    assert result.violations["confirmed too early"] > 0
    # If the caller was cancelled, a refusal that is confirmed too early shows as a lost order.
    assert result.violations["confirmed too early"] + result.violations["lost"] == len(result.reports)


@without_logs
async def test_client_that_rejects_unknown_outcomes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def classify_as_refused(*failed: Any) -> FailureClass:
        failure_class = classify(*failed)
        return FailureClass.REFUSED if failure_class is FailureClass.UNKNOWN else failure_class

    monkeypatch.setattr(execution, "classify", classify_as_refused)
    result = await run(100, seed=6)
    [report] = result.reports
    assert report.startswith("seed 6: lost: order ")
    assert result.violations == dict.fromkeys(VIOLATION_KINDS, 0) | {"lost": 1}
    assert "Plan(number=" in report
    last = result.purchases - 1
    repeated = await run(100, seed=6, only=last)
    assert (repeated.reports, repeated.purchases) == (result.reports, result.purchases)


def test_command_line_prints_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--purchases", "20", "--seed", "3"]) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["purchases"] == "20"
    assert {rows[name] for name in VIOLATION_KINDS} == {"0"}


async def test_cancel_at_step_cancels_at_the_given_await() -> None:
    reached: list[Any] = []

    async def work() -> str:
        try:
            for step in range(3):
                reached.append(step)
                await asyncio.sleep(0)
        finally:
            reached.append("end")
        return "done"

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(cancel_at_step(work(), 2, lambda: reached.append("stop")))
    assert reached == [0, 1, "stop", "end"]
    assert await cancel_at_step(work(), 4, lambda: reached.append("never")) == "done"
    assert "never" not in reached
