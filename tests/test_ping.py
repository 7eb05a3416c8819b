"""`ping`: one read that checks server, credentials, clock and journal."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AuthenticationFailed, ConfigurationError, JournalError, Options, PingResult, RetryPolicy
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Intent
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.raw_server import Connection, RawServer

pytestmark = pytest.mark.anyio


async def test_ping_logs_in_and_reads_once(minted: Any, sandbox: Sandbox):
    result = await minted.ping()
    assert isinstance(result, PingResult)
    assert (result.server, result.attempts, result.open_intents) == (sandbox.url, 1, 0)
    assert abs(result.clock_skew) < 5
    assert 0 < result.latency < 5
    assert result.request_id == sandbox.requests[-1].request_id
    assert [entry.operation for entry in sandbox.requests if entry.status == 200] == ["rates.current"]
    assert pickle.loads(pickle.dumps(result)) == result


async def test_ping_is_allowed_to_a_read_only_client(connect: Any, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(read_only=True))
    assert (await minted.ping()).attempts == 1


async def test_ping_counts_open_intents(connect: Any, sandbox: Sandbox, tmp_path: Path):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, journal=tmp_path / "journal.db")
    await minted.customers.create("ping-1")
    basket = await minted.baskets.add_item("ping-1", sku="MNTBAE0001")
    sandbox.faults.add("drop_after_commit", path="*/complete/buy")
    with pytest.raises(Exception, match=r"."):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert (await minted.ping()).open_intents == len(await minted.complete.pending()) == 1


async def test_ping_reports_wrong_credentials(connect: Any, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, "wrong")
    with pytest.raises(AuthenticationFailed):
        await minted.ping()


async def test_ping_reports_a_broken_journal(connect: Any, sandbox: Sandbox):
    class Broken(MemoryJournal):
        async def pending(self, account: Any = None) -> list[Intent]:
            raise JournalError("the disk is gone")

    minted = await connect(sandbox.url, sandbox.username, sandbox.password, journal=Broken())
    with pytest.raises(JournalError):
        await minted.ping()
    assert list(sandbox.requests) == []


async def test_ping_measures_clock_skew_and_retries(connect: Any, sandbox: Sandbox, clock: ManualClock):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))
    sandbox.faults.add("status", status=503, retry_after=7, times=1)
    result = await minted.ping()
    assert (result.attempts, result.latency >= 7) == (2, True)


async def test_ping_without_a_date_knows_no_skew(connect: Any):
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope([])

    async with RawServer(script) as server:
        minted = await connect(server.url, retry=RetryPolicy.none())
        assert (await minted.ping()).clock_skew is None


async def test_ping_of_a_closed_port_is_typed(connect: Any):
    minted = await connect("http://127.0.0.1:1", retry=RetryPolicy.none())
    with pytest.raises(Exception, match=r"no connection|connect") as caught:
        await minted.ping()
    assert not isinstance(caught.value, ConfigurationError)
