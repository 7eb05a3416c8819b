import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from minted_connect.sandbox import ManualClock, MovableClock, SystemClock
from minted_connect.sandbox.clock import elapsed

pytestmark = pytest.mark.anyio


async def wait_for_sleepers(clock, count):
    while clock.sleepers < count:
        await asyncio.sleep(0)


def test_manual_clock_moves_only_by_advance():
    clock = ManualClock()
    assert (clock.monotonic(), clock.wall()) == (0.0, datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC))
    clock.advance(1.5)
    assert (clock.monotonic(), clock.wall()) == (1.5, datetime(2026, 2, 20, 12, 27, 58, 500_000, tzinfo=UTC))
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)


def test_jump_wall_moves_only_wall_clock():
    clock = ManualClock()
    before = clock.wall()
    clock.jump_wall(-3600)
    assert (clock.monotonic(), clock.wall() - before) == (0.0, timedelta(hours=-1))


def test_start_must_be_aware_and_is_converted_to_utc():
    start = datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    assert ManualClock(start).wall() == datetime(2026, 1, 1, tzinfo=UTC)
    assert ManualClock(start).wall().utcoffset() == timedelta(0)
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))


async def test_sleepers_wake_when_due_in_order():
    clock, woken = ManualClock(), []

    async def sleep(seconds):
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.ensure_future(sleep(seconds)) for seconds in (3, 1, 2, 10)]
    await wait_for_sleepers(clock, 4)
    clock.advance(0.5)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(2.5)
    await asyncio.gather(*tasks[:3])
    assert woken == [1, 2, 3]
    assert clock.sleeps == [3, 1, 2, 10]
    assert clock.sleepers == 1
    tasks[3].cancel()
    await asyncio.gather(tasks[3], return_exceptions=True)
    assert clock.sleepers == 0
    clock.advance(60)


async def test_advance_in_another_thread_wakes_loop():
    clock = ManualClock()
    sleeper = asyncio.ensure_future(clock.sleep(5))
    await wait_for_sleepers(clock, 1)
    thread = threading.Thread(target=clock.advance, args=(5,))
    thread.start()
    await asyncio.wait_for(sleeper, 10)
    thread.join()


async def test_auto_advance_does_not_wait():
    clock = ManualClock(auto_advance=True)
    await clock.sleep(3600)
    await clock.sleep(-1)
    assert (clock.monotonic(), clock.sleeps) == (3600.0, [3600, -1])


def test_sleeper_of_closed_loop_is_dropped():
    clock = ManualClock()
    loop = asyncio.new_event_loop()
    sleeper = loop.create_task(clock.sleep(1))
    loop.run_until_complete(wait_for_sleepers(clock, 1))
    loop.run_until_complete(asyncio.sleep(0))
    sleeper._log_destroy_pending = False
    loop.close()
    clock.advance(2)
    assert clock.sleepers == 0
    sleeper.get_coro().close()


async def run_loop_steps(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_timers_fire_when_due_in_order():
    clock, calls = ManualClock(), []
    for seconds in (3, 1, 2, 2, 10):
        clock.call_later(seconds, lambda seconds=seconds: calls.append((seconds, clock.monotonic())))
    clock.advance(0.5)
    await run_loop_steps()
    assert calls == []
    clock.advance(2.5)
    assert calls == []  # callbacks run on the loop, not inside `advance`
    await run_loop_steps()
    assert calls == [(1, 3), (2, 3), (2, 3), (3, 3)]
    assert (clock.sleepers, clock.sleeps) == (0, [])
    clock.advance(7)
    await run_loop_steps()
    assert calls[4:] == [(10, 10)]


@pytest.mark.parametrize("seconds", [0, -1])
async def test_timer_due_at_once_fires(seconds):
    clock, calls = ManualClock(), []
    clock.call_later(seconds, lambda: calls.append(clock.monotonic()))
    assert calls == []
    await run_loop_steps()
    assert calls == [0]


async def test_cancelled_timer_does_not_fire_if_due():
    clock, calls = ManualClock(), []
    early, late = (clock.call_later(seconds, lambda: calls.append("call")) for seconds in (1, 2))
    late.cancel()
    clock.advance(1)
    early.cancel()
    early.cancel()
    clock.advance(60)
    await run_loop_steps()
    assert calls == []


async def test_timer_fires_on_loop_that_set_it():
    clock = ManualClock()
    calls = asyncio.Event()
    clock.call_later(5, lambda: calls.set() if threading.current_thread() is threading.main_thread() else None)
    thread = threading.Thread(target=clock.advance, args=(5,))
    thread.start()
    await asyncio.wait_for(calls.wait(), 10)
    thread.join()


async def test_auto_advance_moves_clock_by_sleep_not_by_timer():
    clock, calls = ManualClock(auto_advance=True), []
    for seconds in (45, 60):
        clock.call_later(seconds, lambda seconds=seconds: calls.append(seconds))
    await run_loop_steps()
    assert clock.monotonic() == 0
    await clock.sleep(44)
    assert calls == []
    await asyncio.gather(clock.sleep(1), clock.sleep(2))
    assert (calls, clock.monotonic()) == ([45], 47)
    await clock.sleep(13)
    assert calls == [45, 60]


def test_timer_needs_running_loop_and_may_outlive_it():
    clock = ManualClock()
    with pytest.raises(RuntimeError):
        clock.call_later(1, print)
    loop = asyncio.new_event_loop()

    async def set_timer():
        return clock.call_later(1, print)

    timer = loop.run_until_complete(set_timer())
    loop.close()
    clock.advance(2)
    timer.cancel()


async def test_system_clock_follows_machine():
    clock = SystemClock()
    begin = clock.monotonic()
    await clock.sleep(0.001)
    assert clock.monotonic() > begin
    assert abs(clock.wall() - datetime.now(UTC)) < timedelta(seconds=5)


def test_suspend_moves_only_wall_and_elapsed():
    clock = ManualClock()
    begin = clock.wall()
    clock.advance(2)
    clock.suspend(300)
    assert (clock.monotonic(), clock.elapsed(), clock.wall() - begin) == (2, 302, timedelta(seconds=302))
    clock.jump_wall(-3600)
    assert (clock.monotonic(), clock.elapsed()) == (2, 302)
    with pytest.raises(ValueError, match="must not be negative"):
        clock.suspend(-1)


async def test_suspend_does_not_shorten_monotonic_waits():
    clock, calls = ManualClock(), []
    clock.call_later(10, lambda: calls.append("client"))
    clock.call_later_elapsed(10, lambda: calls.append("server"))
    client, server = (asyncio.ensure_future(sleep(10)) for sleep in (clock.sleep, clock.sleep_elapsed))
    await wait_for_sleepers(clock, 2)
    clock.suspend(9)
    await run_loop_steps()
    assert (calls, clock.sleepers) == ([], 2)
    clock.suspend(1)
    await asyncio.wait_for(server, 10)
    assert (calls, client.done()) == (["server"], False)
    clock.advance(10)
    await asyncio.wait_for(client, 10)
    assert calls == ["server", "client"]


async def test_auto_advance_does_not_wait_for_elapsed_time():
    clock = ManualClock(auto_advance=True)
    await clock.sleep_elapsed(5)
    assert (clock.monotonic(), clock.elapsed(), clock.sleeps) == (5, 5, [5])


def test_elapsed_time_follows_boot_time():
    clock, moved = SystemClock(), MovableClock()
    begin, ahead = clock.elapsed(), moved.elapsed()
    moved.advance(3600)
    assert 0 <= clock.elapsed() - begin < 100
    assert 3600 <= moved.elapsed() - ahead < 3700
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(clock.elapsed() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    else:
        assert abs(clock.elapsed() - time.monotonic()) < 5


def test_clock_without_elapsed_uses_monotonic():
    class ClockWithoutElapsed:
        def monotonic(self):
            return 42.0

    assert elapsed(ClockWithoutElapsed()) == 42.0


@pytest.mark.parametrize("fault_arguments", [{"kind": "delay"}, {"kind": "refusal", "commit": "after"}])
async def test_movable_clock_advance_ends_waits_of_sandbox(serving, fault_arguments):
    clock = MovableClock()
    async with serving(clock=clock) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        fault = sandbox.faults.add(**fault_arguments, path="*/complete/*", seconds=100)
        call = asyncio.ensure_future(api.complete(basket))
        while not clock._waiting:
            await asyncio.sleep(0)
        clock.advance(60)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (sandbox.shop.orders, fault.in_flight) == ([], 1)
        await asyncio.to_thread(clock.advance, 40)
        while not sandbox.shop.orders:
            await asyncio.sleep(0)
        await call
        assert clock._waiting == set()


async def test_movable_clock_waits_in_real_time():
    clock = MovableClock()
    await asyncio.wait_for(clock.sleep_elapsed(0.01), 10)
    await asyncio.wait_for(clock.sleep_elapsed(0), 10)
    waiting = asyncio.ensure_future(clock.sleep_elapsed(1_000))
    while not clock._waiting:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert clock._waiting == set()


BASKET = "/partner/walletable/basket"
CUSTOMER = {"external_customer_id": "cust-1"}


async def test_price_lock_expires_during_suspend(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.suspend(239)
        assert (await api.get(BASKET, **CUSTOMER)).data["pricefix"]["remaining"] == 1
        clock.suspend(1)
        assert set((await api.complete(basket)).errors) == {"cart_token"}
        found = (await api.get(BASKET, **CUSTOMER)).data
        assert found["pricefix"]["updated"] is True
        assert (clock.monotonic(), sandbox.shop.orders) == (0, [])


async def test_sandbox_continues_during_suspend(serving, clock):
    async with serving(reads_lag=5, status_interval=60) as (sandbox, api):
        await api.create_customer()
        sandbox.faults.add("refusal", path="*/complete/*", commit="after", seconds=30)
        basket = (await api.add_item()).data
        response = await api.complete(basket)
        assert response.status == 403
        while not clock._timers:
            await asyncio.sleep(0)
        clock.suspend(30)
        while not sandbox.shop.orders:
            await asyncio.sleep(0)
        assert (await api.get("/partner/walletable/orders")).data["total"] == 0
        clock.suspend(65)
        (row,) = (await api.get("/partner/walletable/orders")).data["data"]
        assert row["status_name"] == "Processing"
        response = await api.get("/partner/walletable/rates")
        assert response.headers["Date"] == "Fri, 20 Feb 2026 12:29:32 GMT"
        assert clock.monotonic() == 0


async def test_nonces_expire_during_suspend(serving, clock):
    async with serving(nonce_lifetime=100) as (sandbox, api):
        await api.get("/partner/walletable/rates")
        clock.suspend(100)
        assert (await api.get("/partner/walletable/rates")).status == 200
        assert [entry.status for entry in sandbox.requests] == [401, 200, 401, 200]


async def test_delay_continues_during_suspend(serving, clock):
    async with serving() as (sandbox, api):
        await api.get("/partner/walletable/rates")
        sandbox.faults.add("delay", seconds=10)
        call = asyncio.ensure_future(api.get("/partner/walletable/rates"))
        await wait_for_sleepers(clock, 1)
        clock.suspend(10)
        assert (await asyncio.wait_for(call, 10)).status == 200
