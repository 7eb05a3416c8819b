"""The properties that clients read: `reads_behind` and `latest_landing`."""

import asyncio
import threading

import aiohttp
import pytest

from minted_connect.sandbox import ManualClock, ThreadedSandbox
from minted_connect.sandbox.active_faults import KINDS, Faults
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

COMPLETE = "*/complete/*"
RATES = "/partner/walletable/rates"
LATE = {
    "late_commit": ({"seconds": 7}, 7),
    "refusal": ({"seconds": 7, "commit": "after"}, 7),
    "delay": ({"seconds": 7}, 7),
    "hang": ({}, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_latest_landing_depends_on_kind_of_fault(kind):
    faults = Faults()
    args, expected = LATE.get(kind, ({}, 0.0))
    if kind == "drop_field":
        args = {"field": "paid_total"}
    fault = faults.add(kind, **args)
    assert faults.latest_landing == expected
    fault.remove()
    assert faults.latest_landing == 0.0


@pytest.mark.parametrize("commit", ["before", "never"])
def test_refusal_is_deferred_only_with_commit_after(commit):
    faults = Faults()
    faults.add("refusal", seconds=7, commit=commit)
    faults.add("hang", commit=True)
    assert faults.latest_landing == 0.0


def test_latest_landing_includes_exhausted_faults():
    faults = Faults()
    slow = faults.add("late_commit", seconds=9)
    faults.add("delay", seconds=4)
    assert faults.latest_landing == 9
    matched = faults.match("POST", "/x", before_auth=False)
    assert matched is slow
    faults.finish(matched)
    assert not slow.is_armed
    assert faults.latest_landing == 9
    hang = faults.add("hang", path="/never")
    assert faults.latest_landing is None
    hang.remove()
    slow.remove()
    assert faults.latest_landing == 4


@pytest.mark.parametrize("kind", ["late_commit", "refusal"])
async def test_latest_landing_includes_deferred_of_removed_fault(serving, clock, kind):
    async with serving() as (sandbox, api):
        assert (sandbox.latest_landing, sandbox.reads_behind) == (0.0, 0.0)
        await api.create_customer()
        basket = (await api.add_item()).data
        fault = sandbox.faults.add(kind, path=COMPLETE, **LATE[kind][0])
        if kind == "late_commit":
            with pytest.raises(aiohttp.ClientError):
                await api.complete(basket)
        else:
            assert (await api.complete(basket)).status == 403
        fault.remove()
        assert sandbox.latest_landing == 7
        await wait_until(lambda: clock._timers)
        clock.advance(6.9)
        await asyncio.sleep(0)
        assert sandbox.latest_landing == 7
        clock.advance(0.1)
        await wait_until(lambda: sandbox.shop.orders)
        await wait_until(lambda: sandbox.latest_landing == 0.0)


async def test_latest_landing_includes_delay_of_removed_fault(serving, clock):
    async with serving() as (sandbox, api):
        await api.get(RATES)
        fault = sandbox.faults.add("delay", seconds=7)
        call = asyncio.ensure_future(api.get(RATES))
        await wait_until(lambda: clock.sleepers)
        fault.remove()
        assert sandbox.latest_landing == 7
        clock.advance(7)
        assert (await call).status == 200
        await wait_until(lambda: sandbox.latest_landing == 0.0)


async def test_latest_landing_is_none_while_hang_is_active(serving):
    async with serving() as (sandbox, api):
        await api.get(RATES)
        fault = sandbox.faults.add("hang")
        assert sandbox.latest_landing is None
        call = asyncio.ensure_future(api.get(RATES))
        await wait_until(lambda: fault.waiting)
        assert not fault.is_armed
        assert sandbox.latest_landing is None
        fault.remove()
        assert (await call).status == 200
        await wait_until(lambda: sandbox.latest_landing == 0.0)


async def test_aclose_resets_latest_landing(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        sandbox.faults.add("refusal", path=COMPLETE, commit="after").remove()
        fault = sandbox.faults.add("refusal", path=COMPLETE, commit="after")
        assert (await api.complete((await api.add_item()).data)).status == 403
        fault.remove()
        assert sandbox.latest_landing == 30
    assert sandbox.latest_landing == 0.0
    assert sandbox.shop.orders == []


def test_latest_landing_can_be_read_in_any_thread():
    with ThreadedSandbox(clock=ManualClock(), orders_lag=1, reads_lag=0.5) as sandbox:
        assert (sandbox.reads_behind, sandbox.latest_landing) == (1.5, 0.0)
        seen, stop = set(), threading.Event()

        def read():
            while not stop.is_set():
                seen.add(sandbox.latest_landing)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(200):
            sandbox.faults.add("late_commit", seconds=3)
            sandbox.faults.clear()
        sandbox.faults.add("hang")
        assert sandbox.latest_landing is None
        stop.set()
        reader.join()
        assert seen <= {0.0, 3.0, None}
