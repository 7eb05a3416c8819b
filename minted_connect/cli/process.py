"""A command as a process of the system: its standard streams, and the signals that end it.

Used by `minted` and by `python -m minted_connect`, which works without the extra `cli`.
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
    "MissingErrors",
    "escape",
    "flush_streams",
    "prepare_process",
    "run_interruptible",
    "silence",
]

_T = TypeVar("_T")
_ENDING: Final = ("SIGINT", "SIGTERM", "SIGHUP")  # by name: Windows has no SIGHUP

_is_own_process = False


def prepare_process() -> None:
    """Prepare the process of a command: its standard streams, and that no signal replaces an exit code.

    Streams that are missing are replaced, and what they cannot encode is escaped. A process that is started with a
    closed standard output (`>&-`) has None in its place, and the next socket that it opens would get the number 1.
    """
    global _is_own_process  # noqa: PLW0603 - it is a fact about the process
    _is_own_process = True
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, mode)  # gets the lowest free number
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    if sys.stdout is None:
        sys.stdout = _MissingOutput()
    if sys.stderr is None:
        sys.stderr = MissingErrors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the encoding does not have must not end a command that has bought something.
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Write out both output streams, and drop what they cannot write: else Python would end with exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                silence(stream)


def silence(stream: TextIO) -> None:
    """Have nothing more written to a stream whose reader has gone away or whose disk is full."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, number)
    finally:
        os.close(sink)
    with suppress(OSError, ValueError):
        stream.flush()


def escape(text: str, stream: TextIO) -> str:
    """Return the text with escapes in place of what the encoding of the stream does not have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class MissingErrors(io.TextIOBase):
    """Stands for a missing standard error: drops every text."""

    def write(self, text: str, /) -> int:
        """Drop a text."""
        return len(text)


class _MissingOutput(io.TextIOBase):
    """Stands for a missing standard output: writing fails as it does on a pipe without a reader."""

    def fileno(self) -> int:
        return 1  # the null device, by `prepare_process`

    def write(self, _text: str, /) -> int:
        raise BrokenPipeError(errno.EPIPE, "standard output is closed")


class LossyOutput(io.TextIOBase):
    """Writes to a stream for as long as it can, so that a full disk does not end the work that is reported."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        """The first failure; from then on nothing is written."""

    def write(self, text: str, /) -> int:
        """Write a text, or drop it."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._attempt(self._stream.flush)

    def _attempt(self, work: Callable[[], object]) -> None:
        if self.failure is None:
            try:
                work()
            except (OSError, ValueError) as error:
                self.failure = error
                silence(self._stream)


class Interrupted(Exception):
    """A signal ended the coroutine; the `__cause__` is the exception it ended with, if it had begun."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: int = number

    @property
    def exit_code(self) -> int:
        """The exit code that shells use for this signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


def run_interruptible(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine as `asyncio.run` does, and cancel it on SIGINT, SIGTERM and SIGHUP, as often as one comes.

    No signal breaks into the coroutine, so that a purchase always gets its outcome written down; the journal's patience
    bounds how long that takes. A signal that is ignored (`nohup`) stays ignored, and handlers of others are kept.

    In a process of its own (`prepare_process`), signals that come afterwards are ignored, because the exit code is
    known by then.

    Raises:
        Interrupted: if a signal came and the coroutine did not end by itself all the same.
    """
    import asyncio  # noqa: PLC0415 - `--help` needs none of it

    signals = _Signals()
    before: dict[signal.Signals, Any] = {}
    for number in signals.numbers:
        current = signal.getsignal(number)
        if current in {signal.SIG_DFL, signal.default_int_handler}:
            with suppress(ValueError):  # not the main thread, which alone may set handlers
                before[number] = signal.signal(number, signals.handle)
    try:
        return asyncio.run(signals.run(make))
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        raise Interrupted(signals.received or signal.SIGINT) from error
    finally:
        for number, handler in before.items():
            # Python itself restores the default handlers, which kill, at the end of a process, but not `SIG_IGN`.
            signal.signal(number, signal.SIG_IGN if _is_own_process else handler)


class _Signals:
    """Cancels one coroutine when a signal comes."""

    def __init__(self) -> None:
        self.numbers: list[signal.Signals] = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
        self.received: int | None = None
        """The first signal."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    async def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        import asyncio  # noqa: PLC0415 - as above

        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        if self.received is not None:  # before there was a task to cancel
            raise asyncio.CancelledError
        return await make()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or number
        if self._loop is None or self._task is None:
            return
        if self._task.done():
            raise KeyboardInterrupt  # `asyncio.run` waits for a thread, such as a name lookup that hangs
        self._loop.call_soon_threadsafe(self._task.cancel)
