"""Fixtures for the tests of whoever uses this SDK: a sandbox, clients for it, its faults and its clock.

pytest finds them by itself; nothing is started, and little imported, before a test asks for one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minted_connect import AsyncMintedConnect, MintedConnect
    from minted_connect.sandbox import ManualClock, ThreadedSandbox
    from minted_connect.sandbox.faults import Faults

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
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}({_REAL_TIME}=False, {_AUTO_ADVANCE}=True, **options): the sandbox of this test: on the machine's "
        "clock, on one that stands still until it is moved, or with options of ThreadedSandbox.",
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    marks = [*request.node.iter_markers(_MARK)]
    made: dict[str, Any] = {}
    for mark in reversed(marks):  # the closest to the test has the last word
        made.update(mark.kwargs)
    return made


@pytest.fixture
def minted_clock(request: pytest.FixtureRequest) -> ManualClock:
    """The clock of sandbox and clients: waits pass at once, and everything else when `advance(seconds)` says so."""
    from minted_connect.sandbox import ManualClock  # noqa: PLC0415 - loaded by those who use it

    options = _options(request)
    if options.get(_REAL_TIME):
        raise pytest.UsageError(f"minted_clock: the mark {_MARK}({_REAL_TIME}=True) leaves time to the machine")
    return ManualClock(auto_advance=bool(options.get(_AUTO_ADVANCE, True)))


@pytest.fixture
def minted_sandbox(request: pytest.FixtureRequest) -> Iterator[ThreadedSandbox]:
    """A whole Minted Connect on a free port, for this test alone; the mark `minted(...)` gives it options."""
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
        # pytest shows it when the test fails; the mark `minted(seed=...)` repeats it.
        request.node.add_report_section("setup", "minted_sandbox", f"seed={sandbox.seed}")
        yield sandbox


@pytest.fixture
def minted_faults(minted_sandbox: ThreadedSandbox) -> Faults:
    """What goes wrong in the sandbox: `minted_faults.add("status", path="*/rates", status=503)`."""
    return minted_sandbox.faults


def _settings(sandbox: ThreadedSandbox) -> dict[str, Any]:
    from minted_connect import Options  # noqa: PLC0415

    return {
        "username": sandbox.username,
        "password": sandbox.password,
        "base_url": sandbox.url,
        "options": Options(clock=sandbox.clock),
    }


@pytest.fixture
def minted_client(request: pytest.FixtureRequest, minted_sandbox: ThreadedSandbox) -> AsyncMintedConnect:
    """The asyncio client of the sandbox; closed at the end of the test, on the event loop of the test."""
    from minted_connect import AsyncMintedConnect  # noqa: PLC0415

    client = AsyncMintedConnect(**_settings(minted_sandbox))
    client._use_delays_of(minted_sandbox)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    # Whichever plugin runs the test, its loop is gone when fixtures are torn down: so closing is part of the test.
    test = getattr(request.node, "obj", None)
    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def closing(*args: Any, **kwargs: Any) -> None:
            async with client:
                await test(*args, **kwargs)

        request.node.obj = closing
    return client


@pytest.fixture
def minted_blocking_client(minted_sandbox: ThreadedSandbox) -> Iterator[MintedConnect]:
    """The blocking client of the sandbox; closed after the test."""
    from minted_connect import MintedConnect  # noqa: PLC0415

    with MintedConnect(**_settings(minted_sandbox)) as client:
        client._use_delays_of(minted_sandbox)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        yield client
