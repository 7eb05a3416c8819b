"""The time limits of attempts behave as `asyncio.timeout`, on a loop whose time passes only while it waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.clock import SystemClock, follows_event_loop
from minted_connect.core.deadlines import Deadlines
from minted_connect.sandbox import ManualClock


class VirtualSelector(selectors.DefaultSelector):
    """Advances the time of its loop in place of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while it waits."""

    def __init__(self) -> None:
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run(body: Callable[[], Awaitable[Any]]) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(body(), 10_000))
    finally:
        loop.close()


class AsyncioTimeout:
    """`asyncio.timeout` behind the interface of a limit."""

    def __init__(self, seconds: float) -> None:
        self._limit = asyncio.timeout(seconds)

    def __enter__(self) -> None:
        self._step(self._limit.__aenter__())

    def __exit__(self, *error: object) -> None:
        self._step(self._limit.__aexit__(*error))

    @staticmethod
    def _step(coroutine: Any) -> None:
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("it waited")


MakeLimit = Callable[[float], AbstractContextManager[None]]
times = st.integers(0, 12)
blocks = st.lists(st.tuples(times, times, times, times, times), min_size=1, max_size=6)


async def play(limit: MakeLimit, plan: list[tuple[int, int, int, int, int]]) -> list[tuple[Any, ...]]:
    """Run tasks with two nested limits each, cancel some of them, and return what happened and when."""
    loop = asyncio.get_running_loop()

    async def work(start: int, outer: int, inner: int, duration: int) -> tuple[Any, ...]:
        await asyncio.sleep(start)
        where = []
        try:
            with limit(outer):
                try:
                    with limit(inner):
                        # Between the seconds, so that no two things are due at the same time.
                        await asyncio.sleep(duration + 0.5)
                        where.append("done")
                except TimeoutError:
                    where.append("inner")
                await asyncio.sleep(1.25)
        except TimeoutError:
            where.append("outer")
        assert task_of().cancelling() == 0
        return *where, loop.time()

    def task_of() -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None
        return task

    tasks = [asyncio.create_task(work(*row[:4])) for row in plan]
    for task, (_, _, _, _, cancel_at) in zip(tasks, plan, strict=True):
        if cancel_at < 10:
            loop.call_at(cancel_at + 0.75, task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [("cancelled",) if isinstance(result, asyncio.CancelledError) else result for result in results]


@given(blocks)
def test_limits_end_as_those_of_asyncio(plan: list[tuple[int, int, int, int, int]]) -> None:
    async def ours() -> list[tuple[Any, ...]]:
        deadlines = Deadlines()
        result = await play(deadlines.timeout, plan)
        deadlines.close()
        assert (deadlines._limits, deadlines._timer) == (set(), None)
        return result

    assert run(ours) == run(lambda: play(AsyncioTimeout, plan))


BOTH = [
    pytest.param(lambda: Deadlines().timeout, id="deadlines"),
    pytest.param(lambda: AsyncioTimeout, id="asyncio"),
]


@pytest.mark.parametrize("make", BOTH)
def test_cancellation_in_the_same_iteration_wins(make: Callable[[], MakeLimit]) -> None:
    async def body() -> bool:
        limit, task = make(), asyncio.current_task()
        assert task is not None
        # Both before the task runs again: the expiry, and a cancellation by other code.
        asyncio.get_running_loop().call_at(5, lambda: asyncio.get_running_loop().call_soon(task.cancel))
        try:
            with limit(5):
                await asyncio.sleep(100)
        except TimeoutError:
            # The other cancellation came after the block had ended; it is delivered at the next await.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                return True
            return False
        except asyncio.CancelledError:
            return True
        return False

    assert run(body)


@pytest.mark.parametrize("make", BOTH)
def test_other_error_of_an_expired_block_is_raised(make: Callable[[], MakeLimit]) -> None:
    async def body() -> None:
        with make()(1):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError):
        run(body)


def test_one_timer_serves_all_blocks() -> None:
    async def body() -> None:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        timers = []
        call_at = loop.call_at

        def count(when: float, *arguments: Any, **more: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return call_at(when, *arguments, **more)

        loop.call_at = count  # type: ignore[assignment, method-assign]
        for _ in range(100):
            with deadlines.timeout(30):
                pass
        assert timers == [30]
        with deadlines.timeout(20):
            pass
        assert timers == [30, 20]

    run(body)


def test_close_keeps_the_limits_of_blocks_under_way() -> None:
    async def body() -> float:
        deadlines = Deadlines()
        with pytest.raises(TimeoutError), deadlines.timeout(5):
            deadlines.close()
            await asyncio.sleep(100)
        assert deadlines._timer is None
        return asyncio.get_running_loop().time()

    assert run(body) == 5


def test_limit_outside_of_a_task_is_refused() -> None:
    loop, errors = VirtualLoop(), []

    def enter() -> None:
        try:
            Deadlines().timeout(1).__enter__()
        except RuntimeError as error:
            errors.append(str(error))
        loop.stop()

    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
    assert errors == ["a time limit needs a task"]


def test_clock_with_timers_of_its_own_is_not_limited_by_the_loop() -> None:
    assert follows_event_loop(SystemClock())
    assert not follows_event_loop(ManualClock())
