"""No refusal is confirmed too early: every response, through a proxy that shares no code with sandbox or client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable

import attrs
import pytest

from minted_connect.config import CompletionPolicy
from tests.completion.refusals import (
    DELAY,
    ENDINGS,
    EXCLUDED,
    POLICIES,
    REFUSALS,
    STALENESS,
    UNKNOWN_AT_ONCE,
    Case,
    Ending,
    Environment,
    Response,
    Result,
    cases,
    open_environment,
    render,
    run_case,
)

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(45), pytest.mark.requirement(46)]

by_name = pytest.mark.parametrize("response", REFUSALS, ids=lambda response: response.name)
INTERRUPTED = [
    one for one in REFUSALS if one.name in {"200 success:false", "401 Basic", "403", "409", "422", "429 Retry-After 3"}
]


@pytest.fixture
async def environment(flavour: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Environment]:
    # Log records and the debug checks of asyncio would take more time than the hundreds of purchases.
    caplog.set_level(logging.CRITICAL, "minted_connect")
    asyncio.get_running_loop().set_debug(False)
    async with open_environment(flavour) as environment:
        yield environment


async def run_cases(environment: Environment, selected: Iterable[Case]) -> list[Result]:
    """Run these cases, except the excluded ones, and check that no case has problems."""
    results = [await run_case(environment, case) for case in selected if case.exclusion is None]
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
async def test_refusal_is_confirmed_only_without_an_order(environment: Environment, response: Response) -> None:
    selected = list(cases([response], policy="orders_lag"))
    if environment.flavour == "async":
        # The bound has no effect if reads are fresh, or if the order is made before the response.
        bounded = cases([response], policy="latest_landing")
        selected += [case for case in bounded if case.reads == "delayed" and case.made != "before"]
    for result in await run_cases(environment, selected):
        if result.case.made != "never":
            assert result.reported in {"confirmed", "unknown"}
        elif result.case.response.headers.get("Retry-After") != "3600":
            assert result.reported.startswith("refused (")
            assert result.reconciled == ""


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
async def test_refusal_with_long_retry_after_is_settled_later(environment: Environment) -> None:
    [long_wait] = [one for one in REFUSALS if "3600" in one.name]
    for result in await run_cases(environment, cases([long_wait], policy="orders_lag")):
        assert result.reported == "unknown"
        assert result.reconciled == ("refused (CompletionRejected)" if result.case.made == "never" else "confirmed")


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("response", UNKNOWN_AT_ONCE, ids=lambda response: response.name)
async def test_ambiguous_response_is_unknown_without_polling(environment: Environment, response: Response) -> None:
    forms = {"enveloped"} if environment.flavour == "blocking" else {"enveloped", "bare"}
    selected = [case for case in cases([response]) if case.reads == "delayed" and case.form in forms]
    for result in await run_cases(environment, selected):
        assert result.reported == "unknown"
        # With `latest_landing`, a basket that stays open long enough proves that nothing was executed.
        assert result.reconciled == ("refused (NotExecuted)" if result.case.made == "never" else "confirmed")


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("response", INTERRUPTED, ids=lambda response: response.name)
@pytest.mark.parametrize("ending", ENDINGS)
async def test_interrupted_polling_is_settled_by_reconcile(
    environment: Environment, response: Response, ending: Ending
) -> None:
    if environment.flavour == "blocking" and ending in {"cancelled", "killed"}:
        pytest.skip("a test in another thread cannot cancel between two reads; see test_killed.py")
    selected = [case for case in cases([response], policy="orders_lag", ending=ending) if case.reads == "delayed"]
    results = await run_cases(environment, selected)
    for result in results:
        if result.reported != "confirmed" and not (result.case.form == "enveloped" and response.status == 422):
            assert result.reported == ("cancelled" if ending in {"cancelled", "killed"} else "unknown")
            assert result.reconciled == ("refused (CompletionRejected)" if result.case.made == "never" else "confirmed")
    assert any(result.reconciled for result in results)


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("clock_error", "wall_error"), [(-3600.0, 0.0), (-40.0, 0.0), (0.0, 3600.0), (0.0, 40.0), (3600.0, -3600.0)]
)
async def test_wrong_clocks_settle_no_refusal_too_early(
    ending: Ending, clock_error: float, wall_error: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "minted_connect")
    [forbidden] = [one for one in REFUSALS if one.name == "403"]
    wrong = {"clock_error": clock_error, "wall_error": wall_error, "policy": "orders_lag", "ending": ending}
    async with open_environment("async") as environment:
        selected = [case for case in cases([forbidden], **wrong) if case.reads == "delayed" and case.form == "bare"]
        for result in await run_cases(environment, selected):
            assert result.reconciled == ("refused (CompletionRejected)" if result.case.made == "never" else "confirmed")


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
async def test_excluded_cases_are_trusted_refusals_only(environment: Environment) -> None:
    assert [(case.policy, case.label) for case in EXCLUDED] == [
        ("latest_landing", "422 enveloped, order before, reads delayed by 7 s"),
        ("latest_landing", "422 enveloped, order 5 s after, reads delayed by 7 s"),
        ("orders_lag", "422 enveloped, order before, reads delayed by 7 s"),
        ("orders_lag", "422 enveloped, order 5 s after, reads fresh"),
        ("orders_lag", "422 enveloped, order 5 s after, reads delayed by 7 s"),
    ]
    for case in EXCLUDED:
        # The default policy trusts these statuses, so these cases are confirmed too early.
        assert (await run_case(environment, case)).problems[0].startswith("confirmed too early")
    await run_cases(environment, [attrs.evolve(case, trusts_defaults=False) for case in EXCLUDED])


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
async def test_render_prints_the_table(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "minted_connect")
    monkeypatch.setattr("tests.completion.refusals.REFUSALS", REFUSALS[:1])
    monkeypatch.setattr("tests.completion.refusals.UNKNOWN_AT_ONCE", UNKNOWN_AT_ONCE[:1])
    rows = [row async for row in render(["async"])]
    assert sum(row.endswith("right") and "order" in row for row in rows) == 24 + 12 + 5
    assert not [row for row in rows if "WRONG" in row]
