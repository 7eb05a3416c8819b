"""The asynchronous client runs on asyncio only; anything else raises an error that says so."""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from minted_connect import AsyncMintedConnect, ConfigurationError, SqliteJournal
from tests.plugin.test_plugin import run_pytest

ONLY = "asyncio only"


async def open_client() -> None:
    async with AsyncMintedConnect("u", "p", base_url="http://127.0.0.1:9"):
        pytest.fail("the client was opened")


async def open_sandbox() -> None:
    async with AsyncMintedConnect.sandbox():
        pytest.fail("the sandbox was started")


async def call_without_opening() -> None:
    await AsyncMintedConnect("u", "p", base_url="http://127.0.0.1:9").rates.current()


async def change_without_opening() -> None:
    await AsyncMintedConnect("u", "p", base_url="http://127.0.0.1:9").baskets.add_item("customer-1", sku="MNTBAE0001")


async def close_without_opening() -> None:
    await AsyncMintedConnect("u", "p", base_url="http://127.0.0.1:9").aclose()


async def open_feed() -> None:
    async with AsyncMintedConnect("u", "p", base_url="http://127.0.0.1:9").rates.feed(interval=60):
        pytest.fail("the feed was opened")


USES: list[Callable[[], Awaitable[Any]]] = [
    open_client,
    open_sandbox,
    call_without_opening,
    change_without_opening,
    close_without_opening,
    open_feed,
]


@pytest.mark.requirement(26)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_use_under_trio_raises_configuration_error(use):
    with pytest.raises(ConfigurationError, match=ONLY):
        trio.run(use)


@pytest.mark.requirement(26)
def test_call_outside_of_an_event_loop_raises_configuration_error():
    call = call_without_opening()
    with pytest.raises(ConfigurationError, match=ONLY):
        call.send(None)


def test_sqlite_journal_under_trio_raises_configuration_error(tmp_path: Path):
    journal = SqliteJournal(tmp_path / "orders.db")
    with pytest.raises(ConfigurationError, match=ONLY):
        trio.run(journal.pending)


def test_client_fixture_under_trio_fails_with_the_reason(tmp_path: Path):
    code = """
        import pytest

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_it(anyio_backend, minted_client):
            await minted_client.rates.current()
    """
    result = run_pytest(tmp_path, textwrap.dedent(code))
    assert result.returncode == 1
    assert ONLY in result.stdout
