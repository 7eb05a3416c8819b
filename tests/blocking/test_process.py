"""Signals, forks and interpreter exit, each test in a new interpreter."""

from __future__ import annotations

import signal
import sys
import time
from textwrap import dedent

import pytest

from .conftest import TIMEOUT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and forks")

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

    runner = LoopThread("Client")
    """
)


def with_prelude(source: str) -> str:
    return PRELUDE + dedent(source)


class TestCtrlC:
    def test_ctrl_c_cancels_the_call_and_ends_the_process(self, start_script):
        process = start_script(
            with_prelude(
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
            sent_at = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT)

        assert time.monotonic() - sent_at < 5
        assert out.split() == ["cancelled", "back"]  # in this order: the call has ended when `run` raises
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert process.returncode == -signal.SIGINT

    def test_ctrl_c_without_close_ends_the_process(self, start_script):
        process = start_script(
            with_prelude("runner.run(return_value()); print('ready', flush=True); runner.run(forever())")
        )
        with process:
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT)

        assert process.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in err

    def test_second_ctrl_c_ends_the_wait_for_the_call(self, start_script):
        process = start_script(
            with_prelude(
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
            sent_at = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 7

        assert time.monotonic() - sent_at < 4

    def test_sys_exit_in_sigterm_handler_cancels_the_call(self, start_script):
        process = start_script(
            with_prelude(
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
            out, err = process.communicate(timeout=TIMEOUT)

        assert (process.returncode, out, err) == (3, "cancelled\n", "")


class TestFork:
    @pytest.mark.requirement(25)
    def test_forked_child_is_refused_and_parent_still_works(self, run_script):
        status, out, err = run_script(
            with_prelude(
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
            "this Client was built before a fork of the process: build one in each process",
            "5 42",
        ]

    def test_forked_child_of_unused_runner_is_refused(self, run_script):
        status, out, err = run_script(
            with_prelude(
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

    def test_child_forked_during_call_with_lock_held_is_refused(self, run_script):
        status, out, err = run_script(
            with_prelude(
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
        assert out.splitlines() == ["True", "0", "this Client was closed while the call was in flight"]

    def test_forked_child_that_only_exits_exits(self, run_script):
        status, out, err = run_script(
            with_prelude(
                """
                runner = LoopThread("Client", on_stop)
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

    def test_forked_child_with_own_runner_works(self, run_script):
        status, out, err = run_script(
            with_prelude(
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
    def test_multiprocessing_child_with_own_runner_works(self, run_script, method):
        status, out, err = run_script(
            with_prelude(
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
        error = "'this Client was built before a fork of the process: build one in each process'"
        assert out.splitlines() == [f"(42, {error if method == 'fork' else None})", "0 42"]


class TestExit:
    def test_exit_without_close_prints_only_the_warning(self, run_script):
        begun = time.monotonic()
        status, out, err = run_script(with_prelude("runner.run(return_value()); print('end')"), warnings="default")

        assert (status, out) == (0, "end\n")
        assert "ResourceWarning: unclosed Client: use `with`, or call close()" in err
        assert "Traceback" not in err
        assert time.monotonic() - begun < TIMEOUT / 2

    def test_exit_without_close_runs_on_stop(self, run_script):
        source = "runner = LoopThread('Client', on_stop); runner.run(return_value()); print('end', flush=True)"
        assert run_script(with_prelude(source), warnings="ignore") == (0, "end\non_stop\n", "")

    def test_exit_without_close_and_dev_mode_prints_nothing(self, run_script):
        assert run_script(with_prelude("runner.run(return_value())"), warnings="ignore") == (0, "", "")

    def test_exit_with_background_tasks_and_daemons_ends(self, run_script):
        status, out, err = run_script(
            with_prelude(
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

    def test_exit_waits_for_calls_of_other_threads(self, run_script):
        status, out, err = run_script(
            with_prelude(
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
