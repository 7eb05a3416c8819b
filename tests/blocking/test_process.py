"""Signals, forks and interpreter exit, each in an interpreter of its own and for real."""

from __future__ import annotations

import signal
import sys
import time
from textwrap import dedent

import pytest

from .conftest import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork of POSIX")

PRELUDE = dedent(
    """
    import asyncio, os, sys, threading, time
    from minted_connect.blocking.loop_thread import LoopThread
    from minted_connect.errors import ClientClosedError

    async def return_value():
        return 42

    async def forever(begun=None):
        if begun is not None:
            begun.set()
        await asyncio.Event().wait()

    async def on_stop():
        print("on_stop", flush=True)

    def reap(pid):
        '''Wait for a child, but not for ever.'''
        until = time.monotonic() + 10
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return "hangs"

    def refused(runner):
        try:
            runner.run(return_value())
        except ClientClosedError as error:
            return str(error)

    runner = LoopThread("Thing")
    """
)


def code(source: str) -> str:
    return PRELUDE + dedent(source)


class TestCtrlC:
    def test_cancels_the_call_under_way_and_ends_the_process(self, script):
        process = script(
            code(
                """
                async def purchase():
                    print("begun", flush=True)
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await asyncio.sleep(0)
                        print("cancelled", flush=True)

                try:
                    runner.run(purchase())
                finally:
                    print("back", flush=True)
                    runner.close()
                """
            )
        )
        with process:
            assert process.stdout.readline() == "begun\n"
            pressed = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)

        assert time.monotonic() - pressed < 5
        assert out.split() == ["cancelled", "back"]  # in this order: nothing goes on behind the user's back
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert process.returncode == -signal.SIGINT

    def test_unclosed_it_ends_just_as_promptly(self, script):
        process = script(code("runner.run(return_value()); print('ready', flush=True); runner.run(forever())"))
        with process:
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)

        assert process.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in err

    def test_second_ctrl_c_ends_the_wait_for_the_cancelled_call(self, script):
        process = script(
            code(
                """
                async def stubborn():
                    print("begun", flush=True)
                    while True:
                        try:
                            await asyncio.sleep(3600)
                        except asyncio.CancelledError:
                            print("no", flush=True)

                try:
                    runner.run(stubborn())
                finally:
                    os._exit(7)
                """
            )
        )
        with process:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "no\n"
            pressed = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 7

        assert time.monotonic() - pressed < 4

    def test_sys_exit_in_a_sigterm_handler_does_the_same(self, script):
        process = script(
            code(
                """
                import signal

                async def purchase():
                    print("begun", flush=True)
                    try:
                        await asyncio.Event().wait()
                    finally:
                        print("cancelled", flush=True)

                signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
                try:
                    runner.run(purchase())
                finally:
                    runner.close()
                """
            )
        )
        with process:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)

        assert (process.returncode, out, err) == (3, "cancelled\n", "")


class TestFork:
    @pytest.mark.requirement(25)
    def test_the_child_is_refused_at_once_and_the_parent_goes_on(self, finished):
        status, out, err = finished(
            code(
                """
                runner.run(return_value())
                pid = os.fork()
                if pid == 0:
                    print(refused(runner), flush=True)
                    runner.close()  # does nothing: the loop is the parent's
                    os._exit(5)
                print(reap(pid), runner.run(return_value()), flush=True)
                runner.close()
                """
            )
        )
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            "this Thing was built before a fork of the process: build one in each process",
            "5 42",
        ]

    def test_so_is_a_child_of_a_client_that_was_never_used(self, finished):
        status, out, err = finished(
            code(
                """
                pid = os.fork()
                if pid == 0:
                    print(refused(runner), flush=True)
                    os._exit(0)
                print(reap(pid))
                """
            )
        )
        assert (status, err) == (0, "")
        assert "before a fork" in out

    def test_even_if_another_thread_held_every_lock_and_was_in_a_call(self, finished):
        status, out, err = finished(
            code(
                """
                begun = threading.Event()

                def call():
                    try:
                        runner.run(forever(begun))
                    except ClientClosedError as error:
                        print(error, flush=True)

                waiting = threading.Thread(target=call)
                waiting.start()
                begun.wait()
                with runner._lock:
                    pid = os.fork()
                if pid == 0:
                    print(refused(runner) is not None, flush=True)
                    os._exit(0)
                print(reap(pid), flush=True)
                runner.close()
                waiting.join()
                """
            )
        )
        assert (status, err) == (0, "")
        assert out.splitlines() == ["True", "0", "this Thing was closed while the call was in flight"]

    def test_a_child_that_merely_exits_does_so(self, finished):
        status, out, err = finished(
            code(
                """
                runner = LoopThread("Thing", on_stop)
                runner.run(return_value())
                pid = os.fork()
                if pid == 0:
                    sys.exit(5)  # the whole way out, with atexit and finalizers
                print(reap(pid), runner.run(return_value()), flush=True)
                runner.close()
                """
            )
        )
        assert (status, err) == (0, "")
        assert out.splitlines() == ["5 42", "on_stop"]

    def test_a_child_may_build_its_own(self, finished):
        status, out, err = finished(
            code(
                """
                runner.run(return_value())
                pid = os.fork()
                if pid == 0:
                    own = LoopThread("Own")
                    print(own.run(return_value()), flush=True)
                    own.close()
                    sys.exit(0)
                print(reap(pid), flush=True)
                runner.close()
                """
            )
        )
        assert (status, out, err) == (0, "42\n0\n", "")

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_multiprocessing(self, finished, method):
        status, out, err = finished(
            code(
                """
                import multiprocessing

                def work(queue):
                    own = LoopThread("Own")
                    queue.put((own.run(return_value()), refused(runner)))
                    own.close()

                if __name__ == "__main__":
                    runner.run(return_value())
                    context = multiprocessing.get_context(sys.argv[1])
                    queue = context.SimpleQueue()
                    child = context.Process(target=work, args=(queue,))
                    child.start()
                    print(queue.get(), flush=True)
                    child.join(10)
                    print(child.exitcode, runner.run(return_value()))
                    runner.close()
                else:
                    refused = lambda runner: runner.run(return_value()) and runner.close()  # imported again
                """
            ),
            method,
        )
        assert (status, err) == (0, "")
        said = "'this Thing was built before a fork of the process: build one in each process'"
        assert out.splitlines() == [f"(42, {said if method == 'fork' else None})", "0 42"]


class TestExit:
    def test_without_close_it_is_prompt_and_only_the_warning_is_seen(self, finished):
        begun = time.monotonic()
        status, out, err = finished(code("runner.run(return_value()); print('end')"), warnings="default")

        assert (status, out) == (0, "end\n")
        assert "ResourceWarning: unclosed Thing: use `with`, or call close()" in err
        assert "Traceback" not in err
        assert time.monotonic() - begun < PATIENCE / 2

    def test_without_close_the_last_coroutine_still_runs(self, finished):
        source = "runner = LoopThread('Thing', on_stop); runner.run(return_value()); print('end', flush=True)"
        assert finished(code(source), warnings="ignore") == (0, "end\non_stop\n", "")

    def test_unclosed_without_dev_mode_prints_nothing(self, finished):
        assert finished(code("runner.run(return_value())"), warnings="ignore") == (0, "", "")

    def test_background_tasks_and_waiting_daemons_do_not_hold_it_up(self, finished):
        status, out, err = finished(
            code(
                """
                async def start():
                    global task
                    task = asyncio.create_task(forever())

                def wait():
                    try:
                        runner.run(forever(begun))
                    except ClientClosedError:
                        pass

                begun = threading.Event()
                runner.run(start())
                threading.Thread(target=wait, daemon=True).start()
                begun.wait()
                print("end", flush=True)
                """
            ),
            warnings="ignore",
        )
        assert (status, out, err) == (0, "end\n", "")

    def test_other_threads_finish_their_calls_first(self, finished):
        status, out, err = finished(
            code(
                """
                runner.run(return_value())  # at exit Python starts no new thread
                gate = asyncio.Event()

                async def slow():
                    await gate.wait()
                    return 42

                async def open_gate():
                    gate.set()

                def work():
                    threading.main_thread().join()  # the main thread has come to its end
                    runner.run(open_gate())

                threading.Thread(target=work).start()
                threading.Thread(target=lambda: print(runner.run(slow()), flush=True)).start()
                """
            ),
            warnings="ignore",
        )
        assert (status, err) == (0, "")
        assert out == "42\n"
