"""The sandbox in a thread of its own, for blocking code."""

import asyncio
import threading
from types import TracebackType
from typing import Self, Unpack

from .clock import Clock
from .doorman import Doorman
from .faults import Faults
from .log import RequestLog
from .options import Options
from .server import Sandbox
from .shop import Shop


class ThreadedSandbox:
    """A `Sandbox` served by a daemon thread with its own event loop.

    ```python
    with ThreadedSandbox(seed=7) as sandbox:
        print(sandbox.url, sandbox.username, sandbox.password)
    ```

    Reading its attributes, moving its clock and scripting faults is fine from any thread.

    Args:
        options: those of `Sandbox`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self._sandbox = Sandbox(**options)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Threaded{repr(self._sandbox)[1:]}"

    @property
    def url(self) -> str:
        """Base URL, such as `http://127.0.0.1:43210`."""
        return self._sandbox.url

    @property
    def username(self) -> str:
        """Username of the first partner."""
        return self._sandbox.username

    @property
    def password(self) -> str:
        """Password of the first partner."""
        return self._sandbox.password

    @property
    def clock(self) -> Clock:
        """The time it runs on."""
        return self._sandbox.clock

    @property
    def faults(self) -> Faults:
        """Script of what goes wrong."""
        return self._sandbox.faults

    @property
    def requests(self) -> RequestLog:
        """Log of every request."""
        return self._sandbox.requests

    @property
    def shop(self) -> Shop:
        """The state, to be read."""
        return self._sandbox.shop

    @property
    def doorman(self) -> Doorman:
        """The Digest verifier."""
        return self._sandbox.doorman

    def add_partner(self, username: str, password: str) -> None:
        """Let another partner in, who sees nothing of the others."""
        self._sandbox.add_partner(username, password)

    def start(self) -> None:
        """Start the thread and wait until it listens; whatever kept it from that is raised here."""
        if self._thread is not None:
            raise RuntimeError("a sandbox starts once")
        self._thread = threading.Thread(target=self._run, name="minted-connect-sandbox", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def close(self) -> None:
        """Stop serving and wait for the thread to end. Harmless when called again."""
        if self._thread is None or not self._thread.is_alive():
            return
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._sandbox.start()
        except BaseException as error:  # noqa: BLE001 - it belongs to the thread that called start()
            self._error = error
            return
        else:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        finally:
            self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await self._sandbox.aclose()
