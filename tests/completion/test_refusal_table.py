"""No refusal is believed too early: every response, through a proxy that shares no code with sandbox or client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable

import attrs
import pytest

from minted_connect.config import CompletionPolicy
from tests.completion.refusals import (
    AT_ONCE,
    DELAY,
    ENDINGS,
    LEFT_OUT,
    POLICIES,
    REFUSALS,
    STALENESS,
    Case,
    Ending,
    Response,
    Result,
    Stage,
    cases,
    examine,
    open_stage,
    render,
)

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(45), pytest.mark.requirement(46)]

by_name = pytest.mark.parametrize("response", REFUSALS, ids=lambda response: response.name)
INTERRUPTED = [
    one for one in REFUSALS if one.name in {"200 success:false", "401 Basic", "403", "409", "422", "429 Retry-After 3"}
]


@pytest.fixture
async def stage(flavour: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stage]:
    # Hundreds of purchases: without log records and the checks of asyncio, which cost more than the purchases.
    caplog.set_level(logging.CRITICAL, "minted_connect")
    asyncio.get_running_loop().set_debug(False)
    async with open_stage(flavour) as stage:
        yield stage


async def examine_all(stage: Stage, wanted: Iterable[Case]) -> list[Result]:
    """Examine these cases, except those that the table leaves out; all of them must come out right."""
    results = [await examine(stage, case) for case in wanted if case.left_out is None]
    assert [(result.case.label, result.case.policy, result.problems) for result in results if result.problems] == []
    assert results
    return results


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
def test_delay_and_staleness_are_within_every_settle_time() -> None:
    assert all(policy.settle_time > DELAY + STALENESS for policy in POLICIES.values())
    assert POLICIES["orders_lag"] == CompletionPolicy()


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@by_name
async def test_a_refusal_is_believed_only_without_an_order(stage: Stage, response: Response) -> None:
    wanted = list(cases([response], policy="orders_lag"))
    if stage.flavour == "async":
        # Where reads are fresh, or the order is made before, the bound changes nothing.
        bounded = cases([response], policy="latest_landing")
        wanted += [case for case in bounded if case.reads == "behind" and case.made != "before"]
    for result in await examine_all(stage, wanted):
        if result.case.made != "never":
            assert result.first in {"confirmed", "unknown"}
        elif result.case.response.headers.get("Retry-After") != "3600":
            assert result.first.startswith("refused (")
            assert result.later == ""


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
async def test_a_refusal_that_asks_for_a_long_wait_is_settled_later(stage: Stage) -> None:
    [patient] = [one for one in REFUSALS if "3600" in one.name]
    for result in await examine_all(stage, cases([patient], policy="orders_lag")):
        assert result.first == "unknown"
        assert result.later == ("refused (CompletionRejected)" if result.case.made == "never" else "confirmed")


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("response", AT_ONCE, ids=lambda response: response.name)
async def test_the_outcome_is_unknown_at_once(stage: Stage, response: Response) -> None:
    forms = {"enveloped"} if stage.flavour == "blocking" else {"enveloped", "bare"}
    wanted = [case for case in cases([response]) if case.reads == "behind" and case.form in forms]
    for result in await examine_all(stage, wanted):
        assert result.first == "unknown"
        # With `latest_landing`, a basket that stays open long enough is proof.
        assert result.later == ("refused (NotExecuted)" if result.case.made == "never" else "confirmed")


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("response", INTERRUPTED, ids=lambda response: response.name)
@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_was_not_looked_for_to_the_end_is_settled_later(
    stage: Stage, response: Response, ending: Ending
) -> None:
    if stage.flavour == "blocking" and ending in {"cancelled", "killed"}:
        pytest.skip("a test in another thread cannot cancel between two reads; see test_killed.py")
    wanted = [case for case in cases([response], policy="orders_lag", ending=ending) if case.reads == "behind"]
    results = await examine_all(stage, wanted)
    for result in results:
        if result.first != "confirmed" and not (result.case.form == "enveloped" and response.status == 422):
            assert result.first == ("cancelled" if ending in {"cancelled", "killed"} else "unknown")
            assert result.later == ("refused (CompletionRejected)" if result.case.made == "never" else "confirmed")
    assert any(result.later for result in results)


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("clock_error", "wall_error"), [(-3600.0, 0.0), (-40.0, 0.0), (0.0, 3600.0), (0.0, 40.0), (3600.0, -3600.0)]
)
async def test_wrong_clocks_of_gateways_and_machines_settle_nothing_early(
    ending: Ending, clock_error: float, wall_error: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "minted_connect")
    [forbidden] = [one for one in REFUSALS if one.name == "403"]
    wrong = {"clock_error": clock_error, "wall_error": wall_error, "policy": "orders_lag", "ending": ending}
    async with open_stage("async") as stage:
        wanted = [case for case in cases([forbidden], **wrong) if case.reads == "behind" and case.form == "bare"]
        for result in await examine_all(stage, wanted):
            assert result.later == ("refused (CompletionRejected)" if result.case.made == "never" else "confirmed")


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
async def test_only_trusted_refusals_are_left_out(stage: Stage) -> None:
    assert [(case.policy, case.label) for case in LEFT_OUT] == [
        ("latest_landing", "422 enveloped, order before, reads 7 s behind"),
        ("latest_landing", "422 enveloped, order 5 s after, reads 7 s behind"),
        ("orders_lag", "422 enveloped, order before, reads 7 s behind"),
        ("orders_lag", "422 enveloped, order 5 s after, reads fresh"),
        ("orders_lag", "422 enveloped, order 5 s after, reads 7 s behind"),
    ]
    for case in LEFT_OUT:
        # The default believes these statuses: the table shows what that costs.
        assert (await examine(stage, case)).problems[0].startswith("believed too early")
    await examine_all(stage, [attrs.evolve(case, trusts=False) for case in LEFT_OUT])


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
async def test_the_table_is_printed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "minted_connect")
    monkeypatch.setattr("tests.completion.refusals.REFUSALS", REFUSALS[:1])
    monkeypatch.setattr("tests.completion.refusals.AT_ONCE", AT_ONCE[:1])
    rows = [row async for row in render(["async"])]
    assert sum(row.endswith("right") and "order" in row for row in rows) == 24 + 12 + 5
    assert not [row for row in rows if "WRONG" in row]
