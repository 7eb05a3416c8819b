"""The loop thread in this process, on coroutines of our own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import signal
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from minted_connect.blocking import loop_thread
from minted_connect.blocking.loop_thread import LoopThread
from minted_connect.errors import ClientClosedError, ConfigurationError

from .conftest import PATIENCE, loop_threads


@pytest.fixture
def bridge():
    bridge = LoopThread("Thing")
    yield bridge
    bridge.close()


async def answer(value: Any = 42) -> Any:
    return value


async def forever(begun: threading.Event | None = None) -> NoReturn:
    if begun is not None:
        begun.set()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def interrupt() -> None:
    """Press Ctrl-C, from whichever thread."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@contextlib.contextmanager
def intercepted(bridge: LoopThread, hand_over: Any, monkeypatch: pytest.MonkeyPatch):
    """Let `hand_over(loop, callback)` stand between the bridge and its loop."""

    class Between:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

        def call_soon_threadsafe(self, callback: Any) -> None:
            hand_over(self._loop, callback)

    with monkeypatch.context() as patch:
        patch.setattr(bridge._worker, "loop", Between(bridge._worker.loop))
        yield


class TestRun:
    def test_returns_the_result(self, bridge):
        assert bridge.run(answer()) == 42

    def test_raises_the_error_itself_with_the_frames_of_the_coroutine(self, bridge):
        error = KeyError("gold")

        async def deep() -> None:
            raise error

        with pytest.raises(KeyError) as caught:
            bridge.run(deep())

        assert error is caught.value
        assert "deep" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    def test_a_raised_error_keeps_nothing_alive(self, bridge):
        class Witness:
            pass

        async def fail(witness: Witness) -> None:
            raise KeyError(0)

        witness = Witness()
        gone = weakref.ref(witness)
        gc.disable()
        try:
            with contextlib.suppress(KeyError):
                bridge.run(fail(witness))
            bridge.run(answer())  # the loop has let go of the task before
            del witness
            assert gone() is None
        finally:
            gc.enable()

    def test_runs_everything_on_one_thread_that_is_not_the_callers(self, bridge):
        async def where() -> int:
            return threading.get_ident()

        with ThreadPoolExecutor(4) as pool:
            seen = set(pool.map(lambda _: bridge.run(where()), range(20)))

        assert len(seen) == 1
        assert threading.get_ident() not in seen

    def test_the_coroutine_sees_the_callers_context(self, bridge):
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

        async def look() -> str:
            return variable.get()

        contextvars.copy_context().run(variable.set, "elsewhere")
        variable.set("here")
        assert bridge.run(look()) == "here"

    def test_eight_threads_are_served_side_by_side(self, bridge):
        together = 8
        arrived: list[int] = []
        everybody = asyncio.Event()

        async def meet(number: int) -> int:
            arrived.append(number)
            if len(arrived) == together:
                everybody.set()
            await everybody.wait()
            return number

        with ThreadPoolExecutor(together) as pool:
            assert list(range(together)) == list(pool.map(lambda number: bridge.run(meet(number)), range(together)))

    def test_many_calls_from_eight_threads_get_their_own_answers(self, bridge):
        def work(thread: int) -> bool:
            return all((thread, number) == bridge.run(answer((thread, number))) for number in range(200))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))

    def test_works_inside_a_running_loop_as_in_a_notebook(self, bridge):
        async def cell() -> int:
            return bridge.run(answer())

        assert asyncio.run(cell()) == 42

    def test_exit_raised_by_a_coroutine_reaches_the_caller_and_leaves_the_loop_running(self, bridge):
        async def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            bridge.run(leave())

        assert bridge.run(answer()) == 42

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_task_that_exits_ends_the_loop_and_no_caller_waits_for_ever(self, bridge):
        async def leave() -> None:
            raise SystemExit(3)

        async def start() -> None:
            start.task = asyncio.create_task(leave())
            await forever()

        with pytest.raises(ClientClosedError):
            bridge.run(start())
        with pytest.raises(ClientClosedError):
            bridge.run(answer())

    def test_a_call_cancelled_on_the_loop_says_so(self, bridge):
        async def give_up() -> None:
            raise asyncio.CancelledError

        with pytest.raises(ClientClosedError, match="this Thing cancelled the call"):
            bridge.run(give_up())

    @pytest.mark.parametrize("use", [lambda bridge: bridge.run(answer()), lambda bridge: bridge.close()])
    def test_refuses_its_own_thread_at_once(self, bridge, use):
        async def inside() -> None:
            use(bridge)

        with pytest.raises(ConfigurationError, match="own loop thread"):
            bridge.run(inside())

        assert bridge.run(answer()) == 42

    def test_one_bridge_may_be_used_on_the_loop_of_another(self, bridge):
        other = LoopThread("Other")

        async def inside() -> int:
            return other.run(answer())

        assert bridge.run(inside()) == 42
        other.close()

    def test_waiting_in_slices_returns_what_came(self, bridge, monkeypatch):
        assert 0 < loop_thread._WAIT_SLICE <= 0.1
        monkeypatch.setattr(loop_thread, "_WAIT_SLICE", 0.001)

        assert bridge.run(asyncio.sleep(0.02, 42)) == 42

    def test_when_no_thread_can_be_started_nothing_is_left_behind(self, monkeypatch):
        def refuse(_: threading.Thread) -> NoReturn:
            raise RuntimeError("can't start new thread")

        bridge = LoopThread("Thing")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                bridge.run(answer())
        gc.collect()  # an open loop would warn

        assert bridge.run(answer()) == 42
        bridge.close()


class TestInterruption:
    def test_ctrl_c_cancels_the_call_and_waits_for_its_end(self, bridge):
        cleaned = []

        async def call() -> None:
            interrupt()
            try:
                await forever()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                cleaned.append(True)

        with pytest.raises(KeyboardInterrupt):
            bridge.run(call())

        assert cleaned == [True]
        assert bridge.run(answer()) == 42

    def test_any_exception_of_a_signal_handler_does(self, bridge):
        ended = []

        def handler(*_: Any) -> NoReturn:
            raise ZeroDivisionError

        async def call() -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            try:
                await forever()
            finally:
                ended.append(True)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with pytest.raises(ZeroDivisionError):
                bridge.run(call())
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert ended == [True]

    def test_a_handler_that_returns_changes_nothing(self, bridge):
        seen = []

        async def call() -> int:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            while not seen:
                await asyncio.sleep(0)
            return 42

        before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(bridge.run(answer("in the handler"))))
        try:
            assert bridge.run(call()) == 42
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert seen == ["in the handler"]

    def test_a_handler_may_close_it(self, bridge):
        async def call() -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            await forever()

        before = signal.signal(signal.SIGUSR1, lambda *_: bridge.close())
        try:
            with pytest.raises(ClientClosedError):
                bridge.run(call())
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_notes_of_the_cancelled_call_go_on_the_interrupt(self, bridge):
        async def purchase() -> None:
            interrupt()
            try:
                await forever()
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("intent 7 may have been carried out")
                raise

        with pytest.raises(KeyboardInterrupt) as caught:
            bridge.run(purchase())

        assert caught.value.__notes__ == ["intent 7 may have been carried out"]

    def test_an_error_that_the_cancelled_call_ends_with_is_noted(self, bridge):
        async def purchase() -> None:
            interrupt()
            try:
                await forever()
            except asyncio.CancelledError:
                error = ConfigurationError("no journal")
                error.add_note("intent 7")
                raise error from None

        with pytest.raises(KeyboardInterrupt) as caught:
            bridge.run(purchase())

        assert caught.value.__notes__ == [
            "The interrupted call ended with ConfigurationError('no journal')",
            "intent 7",
        ]

    def test_a_call_that_succeeds_all_the_same_is_noted(self, bridge):
        async def purchase() -> int:
            interrupt()
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            return 42

        with pytest.raises(KeyboardInterrupt) as caught:
            bridge.run(purchase())

        assert caught.value.__notes__ == ["The interrupted call had already succeeded; its result is lost."]

    def test_a_call_that_resists_is_noted_and_not_waited_for_for_ever(self, bridge, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        enough = threading.Event()

        async def stubborn() -> None:
            interrupt()
            while not enough.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)

        with pytest.raises(KeyboardInterrupt) as caught:
            bridge.run(stubborn())
        enough.set()

        assert caught.value.__notes__ == ["The interrupted call could not be cancelled and may still be in flight."]

    def test_a_call_interrupted_before_it_reached_the_loop_never_begins(self, bridge, monkeypatch):
        begun = []

        async def call() -> None:
            begun.append(True)

        def hand_over(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
            if callback.__name__ == "start":
                raise KeyboardInterrupt
            loop.call_soon_threadsafe(callback)

        bridge.run(answer())
        with intercepted(bridge, hand_over, monkeypatch), pytest.raises(KeyboardInterrupt):
            bridge.run(call())

        assert begun == []
        assert set() == bridge._worker.calls

    def test_a_call_interrupted_before_its_first_step_is_cancelled_inside(self, bridge, monkeypatch):
        # Start and cancellation come in one turn of the loop: a task cancelled there would never enter its coroutine.
        gate = threading.Event()
        begun = threading.Event()
        seen = []

        async def hold() -> None:
            begun.set()
            gate.wait(PATIENCE)

        async def call() -> None:
            seen.append("begun")
            await forever()

        def hand_over(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
            loop.call_soon_threadsafe(callback)
            if callback.__name__ == "start":
                raise KeyboardInterrupt
            gate.set()

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(bridge.run, hold())
            begun.wait(PATIENCE)
            with intercepted(bridge, hand_over, monkeypatch), pytest.raises(KeyboardInterrupt):
                bridge.run(call())
            held.result(PATIENCE)

        assert seen == ["begun"]


class TestClose:
    def test_nothing_is_started_before_the_first_call(self):
        before = loop_threads()
        bridge = LoopThread("Thing")
        assert before == loop_threads()
        bridge.close()
        assert before == loop_threads()

    def test_the_thread_is_gone_afterwards(self):
        bridge = LoopThread("Thing")
        bridge.run(answer())
        thread = bridge._worker
        bridge.close()
        assert not thread.is_alive()
        assert thread.loop.is_closed()

    def test_may_be_repeated(self, bridge):
        bridge.run(answer())
        bridge.close()
        bridge.close()

    @pytest.mark.parametrize("used", [False, True])
    def test_calls_afterwards_are_refused_and_their_coroutines_closed(self, used):
        bridge = LoopThread("Thing")
        if used:
            bridge.run(answer())
        bridge.close()

        coro = answer()
        with pytest.raises(ClientClosedError, match="this Thing is closed"):
            bridge.run(coro)

        assert coro.cr_frame is None

    def test_calls_waiting_in_other_threads_end_with_the_reason(self, bridge):
        async def purchase(begun: threading.Event) -> None:
            try:
                await forever(begun)
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("intent 7 may have been carried out")
                raise

        events = [threading.Event() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(bridge.run, purchase(event)) for event in events]
            assert all(event.wait(PATIENCE) for event in events)
            bridge.close()
            errors = [call.exception(PATIENCE) for call in calls]

        assert [str(error) for error in errors] == ["this Thing was closed while the call was in flight"] * 8
        assert all(error.__notes__ == ["intent 7 may have been carried out"] for error in errors)

    def test_every_call_gets_an_answer_while_it_closes(self):
        for _ in range(30):
            bridge = LoopThread("Thing")
            bridge.run(answer())
            ready = threading.Barrier(9)

            def work(bridge: LoopThread = bridge, ready: threading.Barrier = ready) -> int:
                ready.wait(PATIENCE)
                count = 0
                while True:
                    try:
                        bridge.run(answer())
                    except ClientClosedError:
                        return count
                    count += 1

            with ThreadPoolExecutor(8) as pool:
                calls = [pool.submit(work) for _ in range(8)]
                ready.wait(PATIENCE)
                bridge.close()
                for call in calls:
                    call.result(PATIENCE)
            assert set() == bridge._worker.calls

    @pytest.mark.parametrize("used", [False, True])
    def test_eight_threads_may_close_at_once_and_all_find_it_closed(self, used):
        bridge = LoopThread("Thing", answer)
        if used:
            bridge.run(answer())

        def close(_: int) -> bool:
            bridge.close()
            return bridge._worker.is_alive()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(close, range(8))) == [False] * 8

    def test_the_last_coroutine_runs_once_on_the_loop_when_the_calls_have_ended(self):
        order = []

        async def last() -> None:
            order.append(("last", threading.current_thread().name))

        async def call() -> None:
            try:
                await forever(begun)
            finally:
                await asyncio.sleep(0)
                order.append("call ended")

        begun = threading.Event()
        bridge = LoopThread("Thing", last)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(bridge.run, call())
            begun.wait(PATIENCE)
            bridge.close()
            bridge.close()
            assert isinstance(waiting.exception(PATIENCE), ClientClosedError)

        assert order == ["call ended", ("last", "Thing loop")]

    def test_the_last_coroutine_runs_also_when_nothing_was_ever_called(self):
        ran = []

        async def last() -> None:
            ran.append(True)

        LoopThread("Thing", last).close()

        assert ran == [True]

    def test_what_the_last_coroutine_raises_is_raised_once(self):
        async def last() -> None:
            raise KeyError("journal")

        bridge = LoopThread("Thing", last)
        with pytest.raises(KeyError):
            bridge.close()
        bridge.close()

        assert not bridge._worker.is_alive()

    def test_a_last_coroutine_that_hangs_is_given_up(self, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        bridge = LoopThread("Thing", forever)
        with pytest.raises(TimeoutError):
            bridge.close()

    def test_background_tasks_are_cancelled_and_generators_closed(self, bridge):
        ended = []

        async def background() -> None:
            try:
                await forever()
            finally:
                ended.append("task")

        async def walk():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                ended.append("generator")

        async def start() -> Any:
            generator = walk()
            await anext(generator)
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
            return task, generator

        kept = bridge.run(start())
        bridge.close()

        assert ended == ["task", "generator"]
        assert kept[0].cancelled()

    def test_a_call_that_resists_is_let_go_of(self, bridge, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        begun = threading.Event()

        async def stubborn() -> None:
            begun.set()
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
            await asyncio.sleep(3600)

        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(bridge.run, stubborn())
            begun.wait(PATIENCE)
            bridge.close()
            assert isinstance(call.exception(PATIENCE), ClientClosedError)
            del call
        gc.collect()  # "Task was destroyed but it is pending" is logged, not raised


class TestForgotten:
    def test_a_collected_one_warns_stops_its_thread_and_still_runs_the_last_coroutine(self):
        ran = []

        async def last() -> None:
            ran.append(True)

        bridge = LoopThread("Thing", last)
        bridge.run(answer())
        thread = bridge._worker

        with pytest.warns(ResourceWarning, match="unclosed Thing"):
            del bridge
            gc.collect()
        thread.join(PATIENCE)

        assert not thread.is_alive()
        assert ran == [True]

    def test_the_thread_keeps_nobody_alive_not_even_with_a_background_task(self):
        bridge = LoopThread("Thing")

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(forever())

        task = bridge.run(start())
        thread = bridge._worker
        with pytest.warns(ResourceWarning):
            del bridge
            gc.collect()
        thread.join(PATIENCE)

        assert task.cancelled()

    def test_one_that_was_never_used_needs_no_close(self):
        LoopThread("Thing")
        gc.collect()

    def test_one_collected_on_its_own_loop_thread_stops_too(self):
        holder: list[LoopThread] = []

        async def drop() -> None:
            holder.clear()
            gc.collect()
            dropped.set()

        dropped = threading.Event()
        bridge = LoopThread("Thing")
        bridge.run(answer())
        thread = bridge._worker
        holder.append(bridge)
        with pytest.warns(ResourceWarning):
            # Handed over without waiting: a caller that waits would hold it.
            thread.loop.call_soon_threadsafe(lambda: thread.loop.create_task(drop()))
            del bridge
            assert dropped.wait(PATIENCE)
        thread.join(PATIENCE)  # not before: a caught warning holds what it is about

        assert not thread.is_alive()
