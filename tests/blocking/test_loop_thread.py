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

from .conftest import TIMEOUT, loop_threads


@pytest.fixture
def runner():
    runner = LoopThread("Client")
    yield runner
    runner.close()


async def return_value(value: Any = 42) -> Any:
    return value


async def wait_forever(begun: threading.Event | None = None) -> NoReturn:
    if begun is not None:
        begun.set()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def press_ctrl_c() -> None:
    """Send SIGINT to the main thread, as Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@contextlib.contextmanager
def replaced_scheduling(runner: LoopThread, schedule: Any, monkeypatch: pytest.MonkeyPatch):
    """Replace `call_soon_threadsafe` of the loop with `schedule(loop, callback)`."""

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

    def test_raises_the_same_error_with_frames_of_the_coroutine(self, runner):
        error = KeyError("gold")

        async def deep() -> None:
            raise error

        with pytest.raises(KeyError) as caught:
            runner.run(deep())

        assert error is caught.value
        assert "deep" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    def test_raised_error_keeps_no_reference_to_arguments(self, runner):
        class Witness:
            pass

        async def fail(witness: Witness) -> None:
            raise KeyError(0)

        witness = Witness()
        reference = weakref.ref(witness)
        gc.disable()
        try:
            with contextlib.suppress(KeyError):
                runner.run(fail(witness))
            runner.run(return_value())  # after this call the loop has released the first task
            del witness
            assert reference() is None
        finally:
            gc.enable()

    def test_runs_all_coroutines_on_one_other_thread(self, runner):
        async def thread_id() -> int:
            return threading.get_ident()

        with ThreadPoolExecutor(4) as pool:
            seen = set(pool.map(lambda _: runner.run(thread_id()), range(20)))

        assert len(seen) == 1
        assert threading.get_ident() not in seen

    def test_coroutine_has_the_context_of_the_caller(self, runner):
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

        async def read_variable() -> str:
            return variable.get()

        contextvars.copy_context().run(variable.set, "elsewhere")
        variable.set("here")
        assert runner.run(read_variable()) == "here"

    def test_calls_of_eight_threads_run_concurrently(self, runner):
        count = 8
        arrived: list[int] = []
        all_arrived = asyncio.Event()

        async def wait_for_all(number: int) -> int:
            arrived.append(number)
            if len(arrived) == count:
                all_arrived.set()
            await all_arrived.wait()
            return number

        with ThreadPoolExecutor(count) as pool:
            assert list(range(count)) == list(pool.map(lambda number: runner.run(wait_for_all(number)), range(count)))

    def test_calls_of_eight_threads_return_their_own_results(self, runner):
        def work(thread: int) -> bool:
            return all((thread, number) == runner.run(return_value((thread, number))) for number in range(200))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))

    def test_works_inside_a_running_loop(self, runner):
        async def cell() -> int:
            return runner.run(return_value())

        assert asyncio.run(cell()) == 42

    def test_system_exit_of_a_coroutine_leaves_the_loop_running(self, runner):
        async def exit_process() -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            runner.run(exit_process())

        assert runner.run(return_value()) == 42

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_system_exit_of_a_task_ends_the_loop_and_all_calls(self, runner):
        async def exit_process() -> None:
            raise SystemExit(3)

        async def start() -> None:
            start.task = asyncio.create_task(exit_process())
            await wait_forever()

        with pytest.raises(ClientClosedError):
            runner.run(start())
        with pytest.raises(ClientClosedError):
            runner.run(return_value())

    def test_call_cancelled_on_the_loop_raises_closed_error(self, runner):
        async def cancel() -> None:
            raise asyncio.CancelledError

        with pytest.raises(ClientClosedError, match="this Client cancelled the call"):
            runner.run(cancel())

    @pytest.mark.parametrize("use", [lambda runner: runner.run(return_value()), lambda runner: runner.close()])
    def test_use_on_its_own_loop_thread_is_refused(self, runner, use):
        async def inside() -> None:
            use(runner)

        with pytest.raises(ConfigurationError, match="own loop thread"):
            runner.run(inside())

        assert runner.run(return_value()) == 42

    def test_works_on_the_loop_of_another_loop_thread(self, runner):
        other = LoopThread("Other")

        async def inside() -> int:
            return other.run(return_value())

        assert runner.run(inside()) == 42
        other.close()

    def test_wait_in_slices_returns_the_result(self, runner, monkeypatch):
        assert 0 < loop_thread._WAIT_SLICE <= 0.1
        monkeypatch.setattr(loop_thread, "_WAIT_SLICE", 0.001)

        assert runner.run(asyncio.sleep(0.02, 42)) == 42

    def test_failed_thread_start_raises_and_can_be_repeated(self, monkeypatch):
        def refuse(_: threading.Thread) -> NoReturn:
            raise RuntimeError("can't start new thread")

        runner = LoopThread("Client")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                runner.run(return_value())
        gc.collect()  # an open loop would warn

        assert runner.run(return_value()) == 42
        runner.close()


class TestInterruption:
    def test_ctrl_c_cancels_the_call_and_waits_for_its_end(self, runner):
        ended = []

        async def call() -> None:
            press_ctrl_c()
            try:
                await wait_forever()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                ended.append(True)

        with pytest.raises(KeyboardInterrupt):
            runner.run(call())

        assert ended == [True]
        assert runner.run(return_value()) == 42

    def test_exception_of_signal_handler_cancels_the_call(self, runner):
        ended = []

        def handler(*_: Any) -> NoReturn:
            raise ZeroDivisionError

        async def call() -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            try:
                await wait_forever()
            finally:
                ended.append(True)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with pytest.raises(ZeroDivisionError):
                runner.run(call())
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert ended == [True]

    def test_signal_handler_that_returns_does_not_cancel(self, runner):
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

    def test_signal_handler_that_closes_ends_the_call(self, runner):
        async def call() -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            await wait_forever()

        before = signal.signal(signal.SIGUSR1, lambda *_: runner.close())
        try:
            with pytest.raises(ClientClosedError):
                runner.run(call())
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_notes_of_cancelled_call_are_added_to_the_interrupt(self, runner):
        async def purchase() -> None:
            press_ctrl_c()
            try:
                await wait_forever()
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("intent 7 may have been executed")
                raise

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(purchase())

        assert caught.value.__notes__ == ["intent 7 may have been executed"]

    def test_error_of_cancelled_call_is_noted(self, runner):
        async def purchase() -> None:
            press_ctrl_c()
            try:
                await wait_forever()
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

    def test_success_of_cancelled_call_is_noted(self, runner):
        async def purchase() -> int:
            press_ctrl_c()
            with contextlib.suppress(asyncio.CancelledError):
                await wait_forever()
            return 42

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(purchase())

        assert caught.value.__notes__ == ["The interrupted call had already succeeded; its result is lost."]

    def test_call_that_ignores_cancellation_is_noted(self, runner, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        stop = threading.Event()

        async def ignore_cancellation() -> None:
            press_ctrl_c()
            while not stop.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)

        with pytest.raises(KeyboardInterrupt) as caught:
            runner.run(ignore_cancellation())
        stop.set()

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
        with replaced_scheduling(runner, schedule, monkeypatch), pytest.raises(KeyboardInterrupt):
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
            gate.wait(TIMEOUT)

        async def call() -> None:
            seen.append("begun")
            await wait_forever()

        def schedule(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
            loop.call_soon_threadsafe(callback)
            if callback.__name__ == "start":
                raise KeyboardInterrupt
            gate.set()

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(runner.run, hold())
            begun.wait(TIMEOUT)
            with replaced_scheduling(runner, schedule, monkeypatch), pytest.raises(KeyboardInterrupt):
                runner.run(call())
            held.result(TIMEOUT)

        assert seen == ["begun"]


class TestClose:
    def test_no_thread_is_started_before_the_first_call(self):
        before = loop_threads()
        runner = LoopThread("Client")
        assert before == loop_threads()
        runner.close()
        assert before == loop_threads()

    def test_close_ends_the_thread_and_the_loop(self):
        runner = LoopThread("Client")
        runner.run(return_value())
        thread = runner._worker
        runner.close()
        assert not thread.is_alive()
        assert thread.loop.is_closed()

    def test_close_is_idempotent(self, runner):
        runner.run(return_value())
        runner.close()
        runner.close()

    @pytest.mark.parametrize("used", [False, True])
    def test_call_after_close_is_refused_and_coroutine_closed(self, used):
        runner = LoopThread("Client")
        if used:
            runner.run(return_value())
        runner.close()

        coro = return_value()
        with pytest.raises(ClientClosedError, match="this Client is closed"):
            runner.run(coro)

        assert coro.cr_frame is None

    def test_close_ends_calls_of_other_threads_with_notes(self, runner):
        async def purchase(begun: threading.Event) -> None:
            try:
                await wait_forever(begun)
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("intent 7 may have been executed")
                raise

        events = [threading.Event() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(runner.run, purchase(event)) for event in events]
            assert all(event.wait(TIMEOUT) for event in events)
            runner.close()
            errors = [call.exception(TIMEOUT) for call in calls]

        assert [str(error) for error in errors] == ["this Client was closed while the call was in flight"] * 8
        assert all(error.__notes__ == ["intent 7 may have been executed"] for error in errors)

    def test_close_ends_every_concurrent_call(self):
        for _ in range(30):
            runner = LoopThread("Client")
            runner.run(return_value())
            ready = threading.Barrier(9)

            def work(runner: LoopThread = runner, ready: threading.Barrier = ready) -> int:
                ready.wait(TIMEOUT)
                count = 0
                while True:
                    try:
                        runner.run(return_value())
                    except ClientClosedError:
                        return count
                    count += 1

            with ThreadPoolExecutor(8) as pool:
                calls = [pool.submit(work) for _ in range(8)]
                ready.wait(TIMEOUT)
                runner.close()
                for call in calls:
                    call.result(TIMEOUT)
            assert set() == runner._worker.calls

    @pytest.mark.parametrize("used", [False, True])
    def test_close_in_eight_threads_returns_when_closed(self, used):
        runner = LoopThread("Client", return_value)
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
                await wait_forever(begun)
            finally:
                await asyncio.sleep(0)
                order.append("call ended")

        begun = threading.Event()
        runner = LoopThread("Client", on_stop)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(runner.run, call())
            begun.wait(TIMEOUT)
            runner.close()
            runner.close()
            assert isinstance(waiting.exception(TIMEOUT), ClientClosedError)

        assert order == ["call ended", ("on_stop", "Client loop")]

    def test_on_stop_runs_without_any_call(self):
        ran = []

        async def on_stop() -> None:
            ran.append(True)

        LoopThread("Client", on_stop).close()

        assert ran == [True]

    def test_error_of_on_stop_is_raised_once(self):
        async def on_stop() -> None:
            raise KeyError("journal")

        runner = LoopThread("Client", on_stop)
        with pytest.raises(KeyError):
            runner.close()
        runner.close()

        assert not runner._worker.is_alive()

    def test_on_stop_that_hangs_times_out(self, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        runner = LoopThread("Client", wait_forever)
        with pytest.raises(TimeoutError):
            runner.close()

    def test_background_tasks_are_cancelled_and_generators_closed(self, runner):
        ended = []

        async def background() -> None:
            try:
                await wait_forever()
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

        results = runner.run(start())
        runner.close()

        assert ended == ["task", "generator"]
        assert results[0].cancelled()

    def test_close_with_call_that_ignores_cancellation_returns(self, runner, monkeypatch):
        monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.05)
        begun = threading.Event()

        async def ignore_cancellation() -> None:
            begun.set()
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
            await asyncio.sleep(3600)

        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(runner.run, ignore_cancellation())
            begun.wait(TIMEOUT)
            runner.close()
            assert isinstance(call.exception(TIMEOUT), ClientClosedError)
            del call
        gc.collect()  # "Task was destroyed but it is pending" is logged, not raised


class TestUnclosed:
    def test_unclosed_and_collected_warns_and_runs_on_stop(self):
        ran = []

        async def on_stop() -> None:
            ran.append(True)

        runner = LoopThread("Client", on_stop)
        runner.run(return_value())
        thread = runner._worker

        with pytest.warns(ResourceWarning, match="unclosed Client"):
            del runner
            gc.collect()
        thread.join(TIMEOUT)

        assert not thread.is_alive()
        assert ran == [True]

    def test_background_task_does_not_keep_the_owner_alive(self):
        runner = LoopThread("Client")

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(wait_forever())

        task = runner.run(start())
        thread = runner._worker
        with pytest.warns(ResourceWarning):
            del runner
            gc.collect()
        thread.join(TIMEOUT)

        assert task.cancelled()

    def test_unused_and_collected_does_not_warn(self):
        LoopThread("Client")
        gc.collect()

    def test_collected_on_its_own_loop_thread_stops(self):
        holder: list[LoopThread] = []

        async def drop() -> None:
            holder.clear()
            gc.collect()
            dropped.set()

        dropped = threading.Event()
        runner = LoopThread("Client")
        runner.run(return_value())
        thread = runner._worker
        holder.append(runner)
        with pytest.warns(ResourceWarning):
            # Schedule it without waiting: a waiting caller would keep a reference.
            thread.loop.call_soon_threadsafe(lambda: thread.loop.create_task(drop()))
            del runner
            assert dropped.wait(TIMEOUT)
        thread.join(TIMEOUT)  # only after `pytest.warns`, whose record refers to the object

        assert not thread.is_alive()
