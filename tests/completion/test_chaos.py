"""Hundreds of purchases with everything going wrong at random; `python -m tests.completion.chaos` makes many more."""

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
from tests.completion.chaos.result import NEVER
from tests.completion.chaos.run import run
from tests.completion.chaos.stopping import interrupted

pytestmark = pytest.mark.anyio
swiftly = pytest.mark.usefixtures("swift")


@pytest.fixture
async def swift(caplog: pytest.LogCaptureFixture) -> None:
    """Leave out what makes it slower than it need be: asyncio's own checks, and thousands of log records."""
    caplog.set_level(logging.CRITICAL, "minted_connect")
    asyncio.get_running_loop().set_debug(False)


@swiftly
@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("single_shot", [True, False])
async def test_nothing_is_bought_twice_and_nothing_is_lost(
    single_shot: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = await run(150, seed=2026, single_shot=single_shot)
    with capsys.disabled():
        sys.stdout.write(f"\n{tally}\n")
    assert tally.reports == []
    assert (tally.purchases, tally.violations.total()) == (150, 0)
    # It was not all sunshine.
    told = [tally.first[name] for name in ("confirmed", "unknown", "refused", "not sent", "cancelled", "crashed")]
    told += [tally.later[name] for name in ("found", "unknown for good, never executed")]
    assert min(told) > 0
    assert tally.orders < 150
    assert tally.faults.total() > 100
    assert tally.faults["refusal"] > 5


@pytest.mark.requirement(12)
@swiftly
async def test_a_client_that_sends_again_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = retry._max_attempts

    def eager(effect: Effect, *failed: Any) -> int:
        return 2 if effect is Effect.COMPLETE else attempts(effect, *failed)

    monkeypatch.setattr(retry, "_max_attempts", eager)
    tally = await run(200, seed=5, single_shot=False)
    assert tally.violations["double"] + tally.violations["posted twice"] == len(tally.reports) > 0


@swiftly
async def test_a_client_that_believes_a_refusal_at_once_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def rash(look: ReadBack, *_: object) -> bool:
        return look._intent.refusal is not None

    monkeypatch.setattr(ReadBack, "_is_refusal_settled", rash)
    tally = await run(200, seed=5)
    assert tally.violations["believed too early"] > 0
    # What is believed and not told to anybody, because the caller was cancelled, is lost.
    assert tally.violations["believed too early"] + tally.violations["lost"] == len(tally.reports)


@swiftly
async def test_a_client_that_believes_a_doubt_is_found_out_and_caught_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def rash(*failed: Any) -> FailureClass:
        fate = classify(*failed)
        return FailureClass.REFUSED if fate is FailureClass.UNKNOWN else fate

    monkeypatch.setattr(execution, "classify", rash)
    tally = await run(100, seed=5)
    [report] = tally.reports
    assert report.startswith("seed 5: lost: order ")
    assert tally.violations == dict.fromkeys(NEVER, 0) | {"lost": 1}
    assert "Plan(number=" in report
    last = tally.purchases - 1
    again = await run(100, seed=5, only=last)
    assert (again.reports, again.purchases) == (tally.reports, tally.purchases)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--purchases", "20", "--seed", "3"]) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["purchases"] == "20"
    assert {rows[name] for name in NEVER} == {"0"}


async def test_work_is_stopped_at_the_await_that_was_asked_for() -> None:
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
        await asyncio.ensure_future(interrupted(work(), 2, lambda: reached.append("stop")))
    assert reached == [0, 1, "stop", "end"]
    assert await interrupted(work(), 4, lambda: reached.append("never")) == "done"
    assert "never" not in reached
