"""A fleet of real processes, of which one is killed or paused."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest

from minted_connect.sandbox import Sandbox

pytestmark = pytest.mark.anyio

LEASE = 2.0
INTERVAL = 0.1
MEMBERS = 8
SUBSCRIBERS = 100

MEMBER = """
import asyncio, json, sys
from minted_connect import AsyncMintedConnect, Fleet

async def count(ticks, seen):
    async for tick in ticks:
        seen.append(tick.number)

async def main():
    url, username, password, redis, lease, interval, subscribers = sys.argv[1:]
    fleet = Fleet(redis, lease=float(lease))
    async with AsyncMintedConnect(username, password, base_url=url) as minted:
        async with minted.rates.feed(interval=float(interval), jitter=0, fleet=fleet) as feed:
            seen = [[] for _ in range(int(subscribers) - 1)]
            tasks = [asyncio.create_task(count(feed.subscribe(metal="gold"), numbers)) for numbers in seen]
            ticks = feed.subscribe(metal="gold", buffer=10_000)

            async def report():
                async for tick in ticks:
                    print(json.dumps({
                        "number": tick.number, "at": tick.at.timestamp(), "gap": tick.gap, "stale": tick.stale,
                        "missed": tick.missed, "leads": feed._source._is_leader(),
                    }), flush=True)

            reporter = asyncio.create_task(report())
            await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(reporter, *tasks)
        print(json.dumps({"last": [numbers[-1] for numbers in seen], "sorted": all(n == sorted(n) for n in seen)}))

asyncio.run(main())
"""


@attrs.define(eq=False)
class FleetMember:
    process: Process
    ticks: list[dict[str, Any]] = attrs.field(factory=list)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read ticks up to the first that satisfies the condition, and return it."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := await self.process.stdout.readline():
                self.ticks.append(json.loads(line))
                if condition(self.ticks[-1]):
                    return self.ticks[-1]
        raise AssertionError((await self.process.stderr.read()).decode())

    async def end(self) -> dict[str, Any]:
        out, err = await self.process.communicate(b"\n")
        assert (self.process.returncode, err.decode()) == (0, "")
        *ticks, summary = [json.loads(line) for line in out.splitlines()]
        self.ticks += ticks
        return summary

    @property
    def numbers(self) -> list[int]:
        return [tick["number"] for tick in self.ticks if not tick["stale"]]


@pytest.fixture
async def members(sandbox: Sandbox, redis_server) -> AsyncIterator[list[FleetMember]]:
    arguments = (sandbox.url, sandbox.username, sandbox.password, redis_server.url, LEASE, INTERVAL, SUBSCRIBERS)
    command = (sys.executable, "-W", "error", "-c", MEMBER, *map(str, arguments))
    started = [
        FleetMember(await create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        for _ in range(MEMBERS)
    ]
    yield started
    for member in started:
        if member.process.returncode is None:
            member.process.kill()
            await member.process.communicate()


def polls(sandbox: Sandbox) -> int:
    return len([request for request in sandbox.requests.of("rates.current") if request.status != 401])


async def find_leader(members: list[FleetMember]) -> tuple[FleetMember, list[FleetMember]]:
    """Wait until all members have read a common round; return the leader and the others."""
    first = [await member.until(lambda tick: not tick["stale"]) for member in members]
    common = max(tick["number"] for tick in first) + 5
    at = [await member.until(lambda tick: tick["number"] >= common) for member in members]
    (leader,) = [member for member, tick in zip(members, at, strict=True) if tick["leads"]]
    return leader, [member for member in members if member is not leader]


def is_consecutive(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[-1] + 1))


async def test_killed_leader_is_replaced_within_two_leases(members, sandbox):
    leader, others = await find_leader(members)
    newest = max(member.ticks[-1]["number"] for member in members)
    assert newest <= polls(sandbox) <= newest + 3  # only one of the eight processes polls
    leader.process.kill()
    killed_at = [member.ticks[-1]["number"] for member in others]
    after = [await member.until(lambda tick: tick["gap"] > 0) for member in others]
    assert len({tick["number"] for tick in after}) == 1
    assert all(LEASE / 2 < tick["gap"] < 2 * LEASE for tick in after)
    assert min(killed_at) < after[0]["number"]
    last = after[0]["number"] + 10
    at = [await member.until(lambda tick: tick["number"] >= last) for member in others]
    assert [tick["leads"] for tick in at].count(True) == 1
    for member in others:
        summary = await member.end()
        assert is_consecutive(member.numbers)
        assert {tick["missed"] for tick in member.ticks} == {0}
        assert summary["sorted"]
        assert all(number >= last for number in summary["last"])
        assert len(summary["last"]) == SUBSCRIBERS - 1
    assert polls(sandbox) <= max(member.numbers[-1] for member in others) + 3


async def test_resumed_leader_is_rejected_and_follows(members, sandbox):
    leader, others = await find_leader(members)
    # The leader is paused during a poll and reads the response after another member has become leader.
    sandbox.faults.add("delay", path="*/rates", times=1, seconds=0.5)
    polls_before = polls(sandbox)
    while polls(sandbox) == polls_before:
        await asyncio.sleep(0.01)
    leader.process.send_signal(signal.SIGSTOP)
    after = [await member.until(lambda tick: tick["gap"] > 0) for member in others]
    leader.process.send_signal(signal.SIGCONT)
    last = after[0]["number"] + 10
    at = [await member.until(lambda tick: tick["number"] >= last) for member in members]
    (new,) = [member for member, tick in zip(members, at, strict=True) if tick["leads"]]
    assert new is not leader
    for member in members:
        summary = await member.end()
        assert is_consecutive(member.numbers)
        assert summary["sorted"]
    rounds = [{tick["number"]: tick["at"] for tick in member.ticks if not tick["stale"]} for member in members]
    for one in rounds:
        assert all(one[number] == new_at for number, new_at in rounds[members.index(new)].items() if number in one)
