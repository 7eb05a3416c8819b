"""pytest fixtures for applications that use this SDK: a sandbox, its clients, its faults and its clock.

pytest loads the plugin automatically. Nothing is started, and no client is imported, until a test requests a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator

    from minted_connect import AsyncMintedConnect, MintedConnect
    from minted_connect.core.pool import Pool, PoolKind
    from minted_connect.sandbox import ManualClock, ThreadedSandbox
    from minted_connect.sandbox.active_faults import Faults

__all__ = [
    "minted_blocking_client",
    "minted_client",
    "minted_clock",
    "minted_faults",
    "minted_sandbox",
    "pytest_configure",
]

_MARK = "minted"
_REAL_TIME = "real_time"
_AUTO_ADVANCE = "auto_advance"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}({_REAL_TIME}=False, {_AUTO_ADVANCE}=True, **options): configure the sandbox of a test. "
        f"{_REAL_TIME}=True uses the system clock; {_AUTO_ADVANCE}=False stops the clock until advance() is called; "
        "options are those of ThreadedSandbox.",
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for marker in reversed([*request.node.iter_markers(_MARK)]):  # the marker closest to the test overrides the others
        options.update(marker.kwargs)
    return options


@pytest.fixture
def minted_clock(request: pytest.FixtureRequest) -> ManualClock:
    """Return the clock of sandbox and clients: `sleep` advances it immediately; `advance(seconds)` moves it further."""
    from minted_connect.sandbox import ManualClock  # noqa: PLC0415 - imported only if a test uses the fixture

    options = _options(request)
    if options.get(_REAL_TIME):
        raise pytest.UsageError(
            f"minted_clock: not available with the mark {_MARK}({_REAL_TIME}=True); remove one of them"
        )
    return ManualClock(auto_advance=bool(options.get(_AUTO_ADVANCE, True)))


@pytest.fixture
def minted_sandbox(request: pytest.FixtureRequest) -> Iterator[ThreadedSandbox]:
    """Start a sandbox on a free port for this test only; the mark `minted(...)` sets its options."""
    from minted_connect.sandbox import ThreadedSandbox  # noqa: PLC0415

    options = _options(request)
    options.pop(_AUTO_ADVANCE, None)
    if not options.pop(_REAL_TIME, False):
        options["clock"] = request.getfixturevalue("minted_clock")
    try:
        sandbox = ThreadedSandbox(**options)
    except TypeError as error:
        raise pytest.UsageError(f"the mark {_MARK}(...): {error}") from None
    with sandbox:
        # pytest shows the seed if the test fails; the mark `minted(seed=...)` reproduces its prices and ids.
        request.node.add_report_section("setup", "minted_sandbox", f"seed={sandbox.seed}")
        yield sandbox


@pytest.fixture
def minted_faults(minted_sandbox: ThreadedSandbox) -> Faults:
    """Return the faults of the sandbox: `minted_faults.add("status", path="*/rates", status=503)`."""
    return minted_sandbox.faults


def _settings(sandbox: ThreadedSandbox) -> dict[str, Any]:
    from minted_connect import Options  # noqa: PLC0415

    return {
        "username": sandbox.username,
        "password": sandbox.password,
        "base_url": sandbox.url,
        "options": Options(clock=sandbox.clock),
    }


class _Closer:
    """Closes an asyncio client on its event loop: when the test has ended, or before the loop is closed.

    The plugins of anyio and pytest-asyncio, and unittest, close the loop of a test before or after its fixtures are
    torn down. Before they close a loop, they close its asynchronous generators, such as the one of this class.
    """

    def __init__(self, client: AsyncMintedConnect) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generator: AsyncGenerator[None] | None = None
        transport = client._api.state.transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._open = transport._open  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        transport._open = self._open_pools  # type: ignore[method-assign]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _open_pools(self, loop: asyncio.AbstractEventLoop) -> dict[PoolKind, Pool]:
        pools = self._open(loop)
        self._loop, self._generator = loop, self._close_at_end()
        # Run it up to its `yield`: this registers it with the loop.
        with suppress(StopIteration):
            self._generator.__anext__().send(None)
        return pools

    async def _close_at_end(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._client.aclose()

    def close(self) -> None:
        """Close the client, unless its loop is running, or was closed together with the client."""
        loop, generator = self._loop, self._generator
        if loop is not None and generator is not None and not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(generator.aclose())


@pytest.fixture
def minted_client(minted_sandbox: ThreadedSandbox) -> Iterator[AsyncMintedConnect]:
    """Return an asyncio client of the sandbox; it is closed after the test and the fixtures that use it.

    All of them must run on the same event loop. It is asyncio only: on trio, its calls raise `ConfigurationError`.
    """
    from minted_connect import AsyncMintedConnect  # noqa: PLC0415

    client = AsyncMintedConnect(**_settings(minted_sandbox))
    client._use_delays_of(minted_sandbox)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    closer = _Closer(client)
    yield client
    closer.close()


@pytest.fixture
def minted_blocking_client(minted_sandbox: ThreadedSandbox) -> Iterator[MintedConnect]:
    """Return a blocking client of the sandbox; it is closed after the test."""
    from minted_connect import MintedConnect  # noqa: PLC0415

    with MintedConnect(**_settings(minted_sandbox)) as client:
        client._use_delays_of(minted_sandbox)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        yield client
