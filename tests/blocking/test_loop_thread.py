"""The loop thread, tested in this process with plain coroutines."""

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
def runner():
    runner = LoopThread("Thing")
    yield runner
    runner.close()


async def return_value(value: Any = 42) -> Any:
    return value


async def forever(begun: threading.Event | None = None) -> NoReturn:
    if begun is not None:
        begun.set()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def interrupt() -> None:
    """Send SIGINT to the main thread, as Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@contextlib.contextmanager
def intercepted(runner: LoopThread, schedule: Any, monkeypatch: pytest.MonkeyPatch):
    """Replace `call_soon_threadsafe` of the loop by `schedule(loop, callback)`."""

    class LoopProxy:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

        def call_soon_threadsafe(self, callback: Any) -> None:
            schedule(self._loop, callback)

    with monkeypatch.context() as patch:
        patch.setattr(runner._worker, "loop", LoopProxy(runner._worker.loop))
        yield


class TestRun:
    def test_returns_the_result(self, runner):
        assert runner.run(return_value()) == 42

    def test_raises_the_error_itself_with_the_frames_of_the_coroutine(self, runner):
        error = KeyError("gold")

        async def deep() -> None:
            raise error

        with pytest.raises(KeyError) as caught:
            runner.run(deep())

        assert error is caught.value
        assert "deep" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    def test_a_raised_error_keeps_nothing_alive(self, runner):
        class Witness:
            pass

        async def fail(witness: Witness) -> None:
            raise KeyError(0)

        witness = Witness()
        gone = weakref.ref(witness)
        gc.disable()
        try:
            with contextlib.suppress(KeyError):
                runner.run(fail(witness))
            runner.run(return_value())  # the loop has released the task by then
            del witness
            assert gone() is None
        finally:
            gc.enable()

    def test_runs_everything_on_one_thread_that_is_not_the_callers(self, runner):
        async def where() -> int:
            return threading.get_ident()

        with ThreadPoolExecutor(4) as pool:
            seen = set(pool.map(lambda _: runner.run(where()), range(20)))

        assert len(seen) == 1
        assert threading.get_ident() not in seen

    def test_the_coroutine_sees_the_callers_context(self, runner):
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

        async def look() -> str:
            return variable.get()

        contextvars.copy_context().run(variable.set, "elsewhere")
        variable.set("here")
        assert runner.run(look()) == "here"

    def test_eight_threads_are_served_side_by_side(self, runner):
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
            assert list(range(together)) == list(pool.map(lambda number: runner.run(meet(number)), range(together)))

    def test_many_calls_from_eight_threads_get_their_own_answers(self, runner):
        def work(thread: int) -> bool:
            return all((thread, number) == runner.run(return_value((thread, number))) for number in range(200))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))

    def test_works_inside_a_running_loop_as_in_a_notebook(self, runner):
        async def cell() -> int:
            return runner.run(return_value())

        assert asyncio.run(cell()) == 42

    def test_system_exit_of_a_coroutine_leaves_the_loop_running(self, runner):
        async def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            runner.run(leave())

        assert runner.run(return_value()) == 42

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_system_exit_of_a_task_ends_the_loop_and_all_calls(self, runner):
        async def leave() -> None:
            raise SystemExit(3)

        async def start() -> None:
            start.task = asyncio.create_task(leave())
            await forever()

        with pytest.raises(ClientClosedError):
            runner.run(start())
        with pytest.raises(ClientClosedError):
            runner.run(return_value())

    def test_a_call_cancelled_on_the_loop_says_so(self, runner):
        async def give_up() -> None:
            raise asyncio.CancelledError

        with pytest.raises(ClientClosedError, match="this Thing cancelled the call"):
            runner.run(give_up())

    @pytest.mark.parametrize("use", [lambda runner: runner.run(return_value()), lambda runner: runner.close()])
    def test_refuses_its_own_thread_at_once(self, runner, use):
        async def inside() -> None:
            use(runner)

        with pytest.raises(ConfigurationError, match="own loop thread"):
            runner.run(inside())

        assert runner.run(return_value()) == 42

    def test_one_may_be_used_on_the_loop_of_another(self, runner):
        other = LoopThread("Other")

        async def inside() -> int:
            return other.run(return_value())

        assert runner.run(inside()) == 42
        other.close()

    def test_waiting_in_slices_returns_what_came(self, runner, monkeypatch):
        assert 0 < loop_thread._WAIT_SLICE <= 0.1
        monkeypatch.setattr(loop_thread, "_WAIT_SLICE", 0.001)

        assert runner.run(asyncio.sleep(0.02, 42)) == 42

    def test_when_no_thread_can_be_started_nothing_is_left_behind(self, monkeypatch):
        def refuse(_: threading.Thread) -> NoReturn:
            raise RuntimeError("can't start new thread")

        runner = LoopThread("Thing")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                runner.run(return_value())
        gc.collect()  # an open loop would warn

        assert runner.run(return_value()) == 42
        runner.close()


class TestInterruption:
    def test_ctrl_c_cancels_the_call_and_waits_for_its_end(self, runner):
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
            runner.run(call())

        assert cleaned == [True]
        assert runner.run(return_value()) == 42

    def test_any_exception_of_a_signal_handler_does(self, runner):
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
                runner.run(call())
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert ended == [True]

    def test_a_handler_that_returns_changes_nothing(self, runner):
        seen = []

        async def call() -> int:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            while not seen:
                await asyncio.sleep(0)
            return 42

        before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(runner.run(return_value("in the handler"))))
        try:
            assert runner.run(call()) == 42
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert seen == ["in the handler"]

    def test_a_handler_may_close_it(self, runner):
        async def call() -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            await forever()

        before = signal.signal(signal.SIGUSR1, lambda *_: runner.close())
        try:
            with pytest.raises(ClientClosedError):
                runner.run(call())
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_notes_of_the_cancelled_call_go_on_the_interrupt(self, runner):
        async def purchase() -> None:
            interrupt()
            try:
                await forever()
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("intent 7 may have been executed")
                raise

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(purchase())

        assert caught.value.__notes__ == ["intent 7 may have been executed"]

    def test_an_error_that_the_cancelled_call_ends_with_is_noted(self, runner):
        async def purchase() -> None:
            interrupt()
            try:
                await forever()
            except asyncio.CancelledError:
                error = ConfigurationError("no journal")
                error.add_note("intent 7")
                raise error from None

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(purchase())

        assert caught.value.__notes__ == [
            "The interrupted call ended with ConfigurationError('no journal')",
            "intent 7",
        ]

    def test_a_call_that_succeeds_all_the_same_is_noted(self, runner):
        async def purchase() -> int:
            interrupt()
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            return 42

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(purchase())

        assert caught.value.__notes__ == ["The interrupted call had already succeeded; its result is lost."]

    def test_a_call_that_resists_is_noted_and_not_waited_for_for_ever(self, runner, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        enough = threading.Event()

        async def stubborn() -> None:
            interrupt()
            while not enough.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(stubborn())
        enough.set()

        assert caught.value.__notes__ == ["The interrupted call could not be cancelled and may still be in flight."]

    def test_call_interrupted_before_it_was_scheduled_never_runs(self, runner, monkeypatch):
        begun = []

        async def call() -> None:
            begun.append(True)

        def schedule(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
            if callback.__name__ == "start":
                raise KeyboardInterrupt
            loop.call_soon_threadsafe(callback)

        runner.run(return_value())
        with intercepted(runner, schedule, monkeypatch), pytest.raises(KeyboardInterrupt):
            runner.run(call())

        assert begun == []
        assert set() == runner._worker.calls

    def test_call_interrupted_before_its_first_step_is_cancelled(self, runner, monkeypatch):
        # Start and cancellation run in one iteration of the loop: a task cancelled there never enters its coroutine.
        gate = threading.Event()
        begun = threading.Event()
        seen = []

        async def hold() -> None:
            begun.set()
            gate.wait(PATIENCE)

        async def call() -> None:
            seen.append("begun")
            await forever()

        def schedule(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
            loop.call_soon_threadsafe(callback)
            if callback.__name__ == "start":
                raise KeyboardInterrupt
            gate.set()

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(runner.run, hold())
            begun.wait(PATIENCE)
            with intercepted(runner, schedule, monkeypatch), pytest.raises(KeyboardInterrupt):
                runner.run(call())
            held.result(PATIENCE)

        assert seen == ["begun"]


class TestClose:
    def test_nothing_is_started_before_the_first_call(self):
        before = loop_threads()
        runner = LoopThread("Thing")
        assert before == loop_threads()
        runner.close()
        assert before == loop_threads()

    def test_the_thread_is_gone_afterwards(self):
        runner = LoopThread("Thing")
        runner.run(return_value())
        thread = runner._worker
        runner.close()
        assert not thread.is_alive()
        assert thread.loop.is_closed()

    def test_may_be_repeated(self, runner):
        runner.run(return_value())
        runner.close()
        runner.close()

    @pytest.mark.parametrize("used", [False, True])
    def test_calls_afterwards_are_refused_and_their_coroutines_closed(self, used):
        runner = LoopThread("Thing")
        if used:
            runner.run(return_value())
        runner.close()

        coro = return_value()
        with pytest.raises(ClientClosedError, match="this Thing is closed"):
            runner.run(coro)

        assert coro.cr_frame is None

    def test_calls_waiting_in_other_threads_end_with_the_reason(self, runner):
        async def purchase(begun: threading.Event) -> None:
            try:
                await forever(begun)
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("intent 7 may have been executed")
                raise

        events = [threading.Event() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(runner.run, purchase(event)) for event in events]
            assert all(event.wait(PATIENCE) for event in events)
            runner.close()
            errors = [call.exception(PATIENCE) for call in calls]

        assert [str(error) for error in errors] == ["this Thing was closed while the call was in flight"] * 8
        assert all(error.__notes__ == ["intent 7 may have been executed"] for error in errors)

    def test_every_call_ends_while_it_closes(self):
        for _ in range(30):
            runner = LoopThread("Thing")
            runner.run(return_value())
            ready = threading.Barrier(9)

            def work(runner: LoopThread = runner, ready: threading.Barrier = ready) -> int:
                ready.wait(PATIENCE)
                count = 0
                while True:
                    try:
                        runner.run(return_value())
                    except ClientClosedError:
                        return count
                    count += 1

            with ThreadPoolExecutor(8) as pool:
                calls = [pool.submit(work) for _ in range(8)]
                ready.wait(PATIENCE)
                runner.close()
                for call in calls:
                    call.result(PATIENCE)
            assert set() == runner._worker.calls

    @pytest.mark.parametrize("used", [False, True])
    def test_eight_threads_may_close_at_once_and_all_find_it_closed(self, used):
        runner = LoopThread("Thing", return_value)
        if used:
            runner.run(return_value())

        def close(_: int) -> bool:
            runner.close()
            return runner._worker.is_alive()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(close, range(8))) == [False] * 8

    def test_on_stop_runs_once_on_the_loop_after_all_calls(self):
        order = []

        async def on_stop() -> None:
            order.append(("on_stop", threading.current_thread().name))

        async def call() -> None:
            try:
                await forever(begun)
            finally:
                await asyncio.sleep(0)
                order.append("call ended")

        begun = threading.Event()
        runner = LoopThread("Thing", on_stop)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(runner.run, call())
            begun.wait(PATIENCE)
            runner.close()
            runner.close()
            assert isinstance(waiting.exception(PATIENCE), ClientClosedError)

        assert order == ["call ended", ("on_stop", "Thing loop")]

    def test_on_stop_runs_without_any_call(self):
        ran = []

        async def on_stop() -> None:
            ran.append(True)

        LoopThread("Thing", on_stop).close()

        assert ran == [True]

    def test_error_of_on_stop_is_raised_once(self):
        async def on_stop() -> None:
            raise KeyError("journal")

        runner = LoopThread("Thing", on_stop)
        with pytest.raises(KeyError):
            runner.close()
        runner.close()

        assert not runner._worker.is_alive()

    def test_on_stop_that_hangs_times_out(self, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        runner = LoopThread("Thing", forever)
        with pytest.raises(TimeoutError):
            runner.close()

    def test_background_tasks_are_cancelled_and_generators_closed(self, runner):
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

        kept = runner.run(start())
        runner.close()

        assert ended == ["task", "generator"]
        assert kept[0].cancelled()

    def test_a_call_that_resists_is_let_go_of(self, runner, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        begun = threading.Event()

        async def stubborn() -> None:
            begun.set()
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
            await asyncio.sleep(3600)

        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(runner.run, stubborn())
            begun.wait(PATIENCE)
            runner.close()
            assert isinstance(call.exception(PATIENCE), ClientClosedError)
            del call
        gc.collect()  # "Task was destroyed but it is pending" is logged, not raised


class TestForgotten:
    def test_unclosed_and_collected_warns_and_runs_on_stop(self):
        ran = []

        async def on_stop() -> None:
            ran.append(True)

        runner = LoopThread("Thing", on_stop)
        runner.run(return_value())
        thread = runner._worker

        with pytest.warns(ResourceWarning, match="unclosed Thing"):
            del runner
            gc.collect()
        thread.join(PATIENCE)

        assert not thread.is_alive()
        assert ran == [True]

    def test_background_task_does_not_keep_the_owner_alive(self):
        runner = LoopThread("Thing")

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(forever())

        task = runner.run(start())
        thread = runner._worker
        with pytest.warns(ResourceWarning):
            del runner
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
        runner = LoopThread("Thing")
        runner.run(return_value())
        thread = runner._worker
        holder.append(runner)
        with pytest.warns(ResourceWarning):
            # Schedule it without waiting: a waiting caller would keep a reference.
            thread.loop.call_soon_threadsafe(lambda: thread.loop.create_task(drop()))
            del runner
            assert dropped.wait(PATIENCE)
        thread.join(PATIENCE)  # only here: the caught warning has a reference to the object

        assert not thread.is_alive()
