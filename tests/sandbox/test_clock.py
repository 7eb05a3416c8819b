import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from minted_connect.sandbox import ManualClock, SystemClock

pytestmark = pytest.mark.anyio


async def asleep(clock, count):
    while clock.sleepers < count:
        await asyncio.sleep(0)


def test_manual_clock_moves_only_when_told():
    clock = ManualClock()
    assert (clock.monotonic(), clock.wall()) == (0.0, datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC))
    clock.advance(1.5)
    assert (clock.monotonic(), clock.wall()) == (1.5, datetime(2026, 2, 20, 12, 27, 58, 500_000, tzinfo=UTC))
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)


def test_jumping_moves_the_wall_clock_alone():
    clock = ManualClock()
    before = clock.wall()
    clock.jump_wall(-3600)
    assert (clock.monotonic(), clock.wall() - before) == (0.0, timedelta(hours=-1))


def test_start_is_aware_and_shown_in_utc():
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
    await asleep(clock, 4)
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


async def test_advance_from_another_thread_wakes_the_loop():
    clock = ManualClock()
    sleeper = asyncio.ensure_future(clock.sleep(5))
    await asleep(clock, 1)
    thread = threading.Thread(target=clock.advance, args=(5,))
    thread.start()
    await asyncio.wait_for(sleeper, 10)
    thread.join()


async def test_auto_advance_never_waits():
    clock = ManualClock(auto_advance=True)
    await clock.sleep(3600)
    await clock.sleep(-1)
    assert (clock.monotonic(), clock.sleeps) == (3600.0, [3600, -1])


def test_a_sleeper_whose_loop_is_gone_does_not_disturb():
    clock = ManualClock()
    loop = asyncio.new_event_loop()
    sleeper = loop.create_task(clock.sleep(1))
    loop.run_until_complete(asleep(clock, 1))
    loop.run_until_complete(asyncio.sleep(0))
    sleeper._log_destroy_pending = False
    loop.close()
    clock.advance(2)
    assert clock.sleepers == 0
    sleeper.get_coro().close()


async def test_system_clock_is_the_machines():
    clock = SystemClock()
    begin = clock.monotonic()
    await clock.sleep(0.001)
    assert clock.monotonic() > begin
    assert abs(clock.wall() - datetime.now(UTC)) < timedelta(seconds=5)
