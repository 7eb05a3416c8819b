"""Standard streams and signals of a command that runs as a process.

Used by `minted` and by `python -m minted_connect`, which does not need the extra `cli`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Interrupted",
    "LossyOutput",
    "NullStderr",
    "discard_output",
    "escape_unencodable",
    "flush_streams",
    "prepare_process",
    "run_interruptible",
]

_T = TypeVar("_T")
_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")  # by name: Windows has no SIGHUP

_is_own_process = False


def prepare_process() -> None:
    """Replace missing standard streams, escape what they cannot encode, and ignore signals once the exit code is known.

    In a process that starts with a closed standard output (`>&-`), `sys.stdout` is None, and the next socket would get
    file descriptor 1.
    """
    global _is_own_process  # noqa: PLW0603 - a property of the process
    _is_own_process = True
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, mode)  # gets the lowest free descriptor
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    if sys.stdout is None:
        sys.stdout = _ClosedStdout()
    if sys.stderr is None:
        sys.stderr = NullStderr()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that cannot be encoded must not end a command that has bought something.
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Flush both output streams and ignore failures, which would make Python exit with code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                discard_output(stream)


def discard_output(stream: TextIO) -> None:
    """Redirect a stream to the null device, after its reader has closed the pipe or its disk is full."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)
    with suppress(OSError, ValueError):
        stream.flush()


def escape_unencodable(text: str, stream: TextIO) -> str:
    """Return the text with backslash escapes for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class NullStderr(io.TextIOBase):
    """Replacement for a missing standard error; discards all text."""

    def write(self, text: str, /) -> int:
        """Discard the text."""
        return len(text)


class _ClosedStdout(io.TextIOBase):
    """Replacement for a missing standard output; writing raises BrokenPipeError, as on a pipe without a reader."""

    def fileno(self) -> int:
        return 1  # `prepare_process` has opened the null device there

    def write(self, _text: str, /) -> int:
        raise BrokenPipeError(errno.EPIPE, "standard output is closed")


class LossyOutput(io.TextIOBase):
    """Writes to a stream until that fails, so that a full disk does not end a reconciliation."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        """The first error; after it, all text is discarded."""

    def write(self, text: str, /) -> int:
        """Write the text, or discard it after a failure."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._try(self._stream.flush)

    def _try(self, operation: Callable[[], object]) -> None:
        if self.failure is None:
            try:
                operation()
            except (OSError, ValueError) as error:
                self.failure = error
                discard_output(self._stream)


class Interrupted(Exception):
    """A signal ended the coroutine. The `__cause__` is the exception that ended the coroutine."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: int = number

    @property
    def exit_code(self) -> int:
        """Exit code by the convention of shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


def run_interruptible(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine as `asyncio.run` does, and cancel it on each SIGINT, SIGTERM and SIGHUP.

    Signals only cancel the coroutine and never raise inside it, so a purchase can always write its outcome to the
    journal; the journal's timeouts bound how long that takes. Signals that are ignored (`nohup`) stay ignored, and
    handlers that other code has set stay in place.

    After `prepare_process`, signals that arrive when the coroutine has ended are ignored, because the exit code is
    decided by then.

    Raises:
        Interrupted: if a signal arrived and the coroutine was cancelled.
    """
    import asyncio  # noqa: PLC0415 - `--help` does not need it

    signals = _Signals()
    before: dict[signal.Signals, Any] = {}
    for number in signals.numbers:
        current = signal.getsignal(number)
        if current in {signal.SIG_DFL, signal.default_int_handler}:
            with suppress(ValueError):  # only the main thread may set handlers
                before[number] = signal.signal(number, signals.handle)
    try:
        return asyncio.run(signals.run(make))
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        raise Interrupted(signals.received or signal.SIGINT) from error
    finally:
        signals.close_loop()
        for number, handler in before.items():
            # At exit, Python restores default handlers, which kill the process, but leaves `SIG_IGN` in place.
            signal.signal(number, signal.SIG_IGN if _is_own_process else handler)


class _Signals:
    """Cancels one coroutine on each signal."""

    def __init__(self) -> None:
        self.numbers: list[signal.Signals] = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        self.received: int | None = None
        """The first signal that arrived."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    async def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        import asyncio  # noqa: PLC0415 - as above

        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        if self.received is not None:  # the signal arrived before the task was known
            raise asyncio.CancelledError
        return await make()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or number
        if self._loop is None or self._task is None:
            return
        if self._task.done():
            raise KeyboardInterrupt  # `asyncio.run` may wait for a thread, such as a name lookup that hangs
        self._loop.call_soon_threadsafe(self._task.cancel)

    def close_loop(self) -> None:
        """Close the loop if a signal interrupted `asyncio.run` before it had done so."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.close()
