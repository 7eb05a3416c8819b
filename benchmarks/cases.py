"""The cases, one function each: contenders are compared with a stated baseline."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from importlib import util
from itertools import repeat
from math import nan
from statistics import median
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import attrs
from multidict import CIMultiDict
from tenacity import retry, retry_if_exception_type, stop_after_attempt
from yarl import URL

from benchmarks import fanout, mirrors, peers
from benchmarks import purchases as buying
from benchmarks.measure import Cost, Measure, interleave, timed
from benchmarks.report import Row, compare
from benchmarks.server import LATENCY, MINIMAL, ROOT, SAMPLE, SANDBOX, Served
from benchmarks.starts import STARTS
from minted_connect import Basket, MintedConnectError, Rate
from minted_connect.core.auth.challenge import Terms, parse_challenges
from minted_connect.core.auth.digest import DigestAuth, Signer
from minted_connect.core.converter import structure, unstructure
from minted_connect.core.exact_json import dumps, loads

__all__ = ["CASES", "Effort"]

_SDK: Final = "SDK: typed, exact, signed"
_FLOOR: Final = "aiohttp, no auth, json.loads"
_PEERS: Final = {
    _FLOOR: peers.plain,
    "aiohttp, DigestAuthMiddleware, json.loads": peers.digest_middleware,
    _SDK: peers.typed,
}
_OTHERS: Final = {
    "asyncio streams, pre-signed bytes, json.loads": peers.streams,
    **({"httpx, DigestAuth, pydantic": peers.httpx_typed("httpx")} if peers.HAS_HTTPX else {}),
    **({"httpx2, DigestAuth, pydantic": peers.httpx_typed("httpx2")} if peers.HAS_HTTPX2 else {}),
}
_REQUESTS: Final = "requests, HTTPDigestAuth, SDK's decoding"
_BASKETS: Final = (1, 10, 100, 1000)
_WIDTHS: Final = (1, 4, 16, 64, 256)


_EMPTY_APP: Final = """
import typer
app = typer.Typer()
@app.command()
def one() -> None: "Do nothing."
@app.command()
def two() -> None: "Do nothing."
app()
"""
_CONCURRENT_GOALS: Final = {16: "", 64: "<= 1.30 x CPU", 256: "<= 1.10 x CPU, p99 <= 0.25 x"}
QUICKER: Final = 200
"""Number of calls below which an effort counts as quick."""
RATE: Final = Rate(
    currency_id=1000013,
    currency_name="Dirham Gold",
    metal_type="gold",
    spot_price=Decimal("586.48"),
    buy_price=Decimal("592.34"),
    sell_price=Decimal("580.62"),
    currency_code="AED",
    updated_at=datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC),
    product_id=3000099,
    sku="MNTBAE0001",
)


@attrs.frozen
class Effort:
    """The number of measurements."""

    repetitions: int
    calls: int
    """HTTP calls of one contender per repetition."""
    steps: int
    """Calls per repetition of functions that take microseconds."""
    intervals: int
    """Seconds for which prices are polled."""


def sequential(effort: Effort) -> list[Row]:
    """Compare sequential GETs."""
    costs = _over_http(effort, {**_PEERS, **_OTHERS}, 1)
    return compare("GET, one at a time", costs, _FLOOR, goals={_SDK: "<= 1.25 x wall; 1 request"})


def concurrent(effort: Effort) -> list[Row]:
    """Compare concurrent GETs, with at most 64 connections for each contender."""
    rows: list[Row] = []
    for at_once in (16, 64, 256):
        # httpx is much slower than the others: it runs with one number of concurrent calls only.
        contenders = {**_PEERS, **_OTHERS} if at_once == peers.WIDTH else _PEERS
        costs = _over_http(_fewer(effort, at_once), contenders, at_once)
        goals = {_SDK: _CONCURRENT_GOALS[at_once]}
        rows += compare(f"GET, {at_once} at once", costs, _FLOOR, goals=goals, notes=_rates(costs))
    return rows


def changes(effort: Effort) -> list[Row]:
    """Compare sequential PATCHes, and concurrent ones of one basket, which the SDK serialises."""
    floor = "aiohttp, no auth, json"
    contenders = {floor: peers.plain_patch, _SDK: peers.typed_patch}
    costs = _over_http(effort, contenders, 1)
    rows = compare("PATCH, one at a time", costs, floor, goals={_SDK: "<= 1.15 x wall"})
    for at_once in (16, 64, 256):
        costs = _over_http(_fewer(effort, at_once), contenders, at_once)
        notes = _rates(costs)
        notes[_SDK] += ", serialised"
        rows += compare(f"PATCH, {at_once} at once, one basket", costs, floor, notes=notes)
    return rows


def growth(effort: Effort) -> list[Row]:
    """Check whether the cost per item grows with the number of concurrent calls or of items in one response."""
    with Served(MINIMAL) as server, peers.Driver() as driver:
        get = driver.open(peers.typed(server))
        contenders = {f"SDK, {width} at once": timed(driver.repeat(get, width)) for width in _WIDTHS}
        costs = interleave(contenders, calls=_fewer(effort, 256).calls, repetitions=_fewer(effort, 256).repetitions)
    rows = compare("growth: GETs", costs, next(iter(costs)), notes=_rates(costs))
    data = loads(SAMPLE)["data"]
    decoded: dict[str, list[Cost]] = {}
    for number in _BASKETS:
        body = json.dumps([data] * number, default=float).encode()
        step = _steps(lambda body=body: structure(loads(body), tuple[Basket, ...]))  # type: ignore[misc]
        costs = interleave({"": step}, calls=max(3, effort.steps // number // 4), repetitions=effort.repetitions)
        decoded[f"SDK, {number} in one response"] = [
            attrs.evolve(cost, wall=cost.wall / number, cpu=cost.cpu / number) for cost in costs[""]
        ]
    return rows + compare("growth: decode, for each basket", decoded, next(iter(decoded)))


def _fewer(effort: Effort, at_once: int) -> Effort:
    rounds = 2 if effort.calls < QUICKER else 4
    return attrs.evolve(effort, calls=rounds * at_once, repetitions=max(3, effort.repetitions // 2))


def _rates(costs: Mapping[str, list[Cost]]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for what, row in costs.items():
        per_second, per_cpu_second = (
            1 / median(times) for times in zip(*((one.wall, one.cpu) for one in row), strict=True)
        )
        notes[what] = f"{per_second:.0f} calls/s, {per_cpu_second:.0f} per CPU second"
        timed_ones = [(one.p50, one.p99) for one in row if one.p50 is not None and one.p99 is not None]
        if timed_ones:
            p50, p99 = (median(times) * 1e3 for times in zip(*timed_ones, strict=True))
            notes[what] += f", p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    return notes


def _over_http(effort: Effort, contenders: Mapping[str, peers.Peer], at_once: int) -> dict[str, list[Cost]]:
    with Served(MINIMAL) as server, peers.Driver() as driver:
        measures: dict[str, Measure] = {}
        for what, peer in contenders.items():
            seconds: list[float] = []
            run = driver.repeat(driver.open(peer(server)), at_once, seconds)
            measures[what] = timed(run, requests=server.requests, seconds=seconds)
        return interleave(measures, calls=effort.calls, repetitions=effort.repetitions)


def first_call(effort: Effort) -> list[Row]:
    """Measure the first call of a new client, with a server that takes 20 ms per request, in round trips."""
    with Served(MINIMAL) as server, peers.Driver() as driver:
        contenders = {
            "aiohttp, DigestAuthMiddleware, json.loads": timed(driver.first(peers.digest_middleware, server)),
            _SDK: timed(driver.first(peers.typed, server)),
        }
        costs = interleave(contenders, calls=5, repetitions=max(3, effort.repetitions // 4))
    notes = {what: f"{median([cost.wall for cost in row]) / LATENCY:.2f} round trips" for what, row in costs.items()}
    return compare("first call, 20 ms away", costs, next(iter(costs)), goals={_SDK: "<= 2.2 round trips"}, notes=notes)


def burst(effort: Effort) -> list[Row]:
    """Measure the requests of a new client that starts `peers.WIDTH` calls at once."""
    with Served(MINIMAL) as server, peers.Driver() as driver:
        contenders = {
            what: timed(driver.burst(peer, server), requests=server.requests) for what, peer in _PEERS.items()
        }
        costs = interleave(contenders, calls=1, repetitions=effort.repetitions)
    return compare(
        f"cold burst of {peers.WIDTH}", costs, _FLOOR, goals={_SDK: f"<= 1.15 x wall; {peers.WIDTH + 1} requests"}
    )


def blocking(effort: Effort) -> list[Row]:
    """Compare the blocking client with the async one, and with `requests` if it is installed."""
    rows: list[Row] = []
    for number, goal in ((1, "0.66"), (8, "0.42"), (32, "0.40")):
        calls = effort.calls // 32 * 32
        with Served(MINIMAL) as server, peers.Driver() as driver, ExitStack() as stack:
            get = stack.enter_context(peers.typed_blocking(server))
            spread = stack.enter_context(peers.threads(number))
            contenders = {
                "SDK, async": timed(driver.repeat(driver.open(peers.typed(server)), number), requests=server.requests),
                "SDK, blocking": timed(spread(get), requests=server.requests),
            }
            if peers.HAS_REQUESTS:
                other = stack.enter_context(peers.requests_typed(server))
                contenders[_REQUESTS] = timed(spread(other), requests=server.requests)
                if number == 1:
                    usual = stack.enter_context(peers.requests_typed(server, trust_env=True))
                    contenders[f"{_REQUESTS}, trust_env=True (its default)"] = timed(spread(usual))
            costs = interleave(contenders, calls=calls, repetitions=effort.repetitions)
        case = f"blocking, {number} thread{'s' if number > 1 else ''}"
        ours = {what: costs[what] for what in ("SDK, async", "SDK, blocking")}
        rows += compare(case, ours, "SDK, async")
        if peers.HAS_REQUESTS:
            theirs = {what: row for what, row in reversed(costs.items()) if what != "SDK, async"}
            goals = {"SDK, blocking": f"<= {goal} x wall"}
            rows += compare(f"{case}, beside requests", theirs, _REQUESTS, goals=goals)
    return rows


def decode(effort: Effort) -> list[Row]:
    """Compare decoding: one basket, a hundred baskets, and a thousand rates."""
    exact = json.JSONDecoder(parse_float=Decimal)
    text = SAMPLE.decode()
    contenders = {
        "json.loads, floats": _steps(lambda: json.loads(SAMPLE)),
        "json with Decimals": _steps(lambda: exact.decode(text)),
        "SDK, parsing alone": _steps(lambda: loads(SAMPLE)),
        "SDK, bytes to Basket": _steps(lambda: structure(loads(SAMPLE)["data"], Basket)),
    }
    if peers.HAS_HTTPX:
        model = mirrors.pydantic_of(Basket)
        contenders["json with Decimals, pydantic"] = _steps(lambda: model.model_validate(exact.decode(text)["data"]))
    costs = interleave(contenders, calls=effort.steps, repetitions=effort.repetitions)
    rows = compare("decode one basket", costs, "json.loads, floats", goals={"SDK, bytes to Basket": "<= 2.40 x wall"})
    for case, number, sample, type_ in (
        ("decode 100 baskets", 100, loads(SAMPLE)["data"], Basket),
        ("decode 1,000 rates", 1000, unstructure(RATE), Rate),
    ):
        body = dumps([sample] * number)
        many: dict[str, Measure] = {
            "json.loads, floats": _steps(lambda body=body: json.loads(body)),  # type: ignore[misc]
            "SDK": _steps(lambda body=body, type_=type_: structure(loads(body), tuple[type_, ...])),  # type: ignore[misc,valid-type]
        }
        costs = interleave(many, calls=max(3, effort.steps // 200), repetitions=effort.repetitions)
        rows += compare(case, costs, "json.loads, floats")
    return rows


def encode(effort: Effort) -> list[Row]:
    """Compare encoding of one basket."""
    basket = structure(loads(SAMPLE)["data"], Basket)
    plain = json.loads(SAMPLE)["data"]
    contenders = {
        "json.dumps of a dict, floats": _steps(lambda: json.dumps(plain).encode()),
        "SDK, Basket to bytes": _steps(lambda: dumps(unstructure(basket))),
    }
    costs = interleave(contenders, calls=effort.steps // 4, repetitions=effort.repetitions)
    return compare("encode one basket", costs, next(iter(contenders)))


def memory(_: Effort) -> list[Row]:
    """Measure the memory of an idle client and of a call in flight."""
    with Served(MINIMAL) as server:
        sizes = asyncio.run(peers.sizes(server))
    return [
        Row("memory", what, nan, nan, (nan, nan), nan, nan, None, "", f"{size / 1024:.1f} KiB")
        for what, size in sizes.items()
    ]


def digest(effort: Effort) -> list[Row]:
    """Compare the signing of one request."""
    field = 'Digest realm="benchmarks", qop="auth", algorithm=SHA-256, nonce="c2l4dGVlbiBieXRlcyE"'
    (challenge,) = parse_challenges([field])
    ha1 = hashlib.sha256(b"partner:benchmarks:secret").hexdigest()
    signer = Signer(challenge, Terms(challenge.realm, "SHA-256", "auth"), 'username="partner"', ha1)
    target = f"/partner/walletable/basket?external_customer_id={peers.CUSTOMER}"
    hashed = f"{ha1}:{challenge.nonce}:00000001:0123456789abcdef:auth:{ha1}".encode()
    auth = DigestAuth("partner", "secret")
    middleware = aiohttp.DigestAuthMiddleware("partner", "secret")
    request: Any = SimpleNamespace(
        url=URL(f"http://127.0.0.1{target}", encoded=True), method="GET", body=b"", headers=CIMultiDict[str]()
    )
    responses = {
        False: SimpleNamespace(status=401, headers={"www-authenticate": field}, url=request.url),
        True: SimpleNamespace(status=200),
    }

    async def handler(signed: Any) -> Any:
        return responses["Authorization" in signed.headers]

    async def theirs() -> None:
        request.headers.clear()
        await middleware(request, handler)

    async def ours() -> None:
        async with auth.auth_flow() as flow:
            while flow.header("GET", target) is None:
                flow.on_challenge([field])
            flow.on_success()

    contenders = {
        "one SHA-256": _steps(lambda: hashlib.sha256(hashed).hexdigest()),
        "SDK, header alone": _steps(lambda: signer.header("GET", target)),
        "SDK, authentication of one call": _awaited(ours),
        "aiohttp.DigestAuthMiddleware": _awaited(theirs),
    }
    costs = interleave(contenders, calls=effort.steps, repetitions=effort.repetitions)
    return compare("digest", costs, "one SHA-256", goals={"SDK, header alone": "<= 6 x wall"})


def retries(effort: Effort) -> list[Row]:
    """Measure what tenacity adds to a call that succeeds: the SDK makes its first attempt without it."""

    async def attempt() -> None: ...

    decorated = retry(retry=retry_if_exception_type(MintedConnectError), stop=stop_after_attempt(3))(attempt)
    contenders = {"bare await": _awaited(attempt), "tenacity's decorator": _awaited(decorated)}
    costs = interleave(contenders, calls=effort.steps, repetitions=effort.repetitions)
    bare, added = (median([cost.wall for cost in costs[what]]) for what in contenders)
    notes = {"tenacity's decorator": f"adds {(added - bare) * 1e6:.2f} µs"}
    return compare("retries, success", costs, "bare await", notes=notes)


def imports(effort: Effort) -> list[Row]:
    """Compare imports, each in a new interpreter."""
    contenders = {
        "the five dependencies": _imported("import aiohttp, anyio, attrs, cattrs, tenacity"),
        "import minted_connect": _imported("import minted_connect"),
        "its AsyncMintedConnect": _imported("from minted_connect import AsyncMintedConnect"),
        "its MintedConnect": _imported("from minted_connect import MintedConnect"),
    }
    costs = interleave(contenders, calls=1, repetitions=max(3, effort.repetitions // 2))
    return compare("import", costs, "the five dependencies", goals={"import minted_connect": "<= 60 ms"})


def start(effort: Effort) -> list[Row]:
    """Compare processes that import a client and make one authenticated GET."""
    contenders = {what: script for what, (needed, script) in STARTS.items() if all(map(util.find_spec, needed))}
    with Served(MINIMAL) as server:
        settings = (server.url, server.username, server.password, peers.CUSTOMER)
        measures = {what: _ran("-c", script, *settings) for what, script in contenders.items()}
        costs = interleave(measures, calls=1, repetitions=max(3, effort.repetitions // 2))
    return compare("start to first response", costs, next(iter(costs)))


def command_line(effort: Effort) -> list[Row]:
    """Compare the processes of `minted --help` and of the help of an empty Typer app with two commands."""
    if not peers.HAS_TYPER:
        return []
    contenders = {
        "an empty Typer app": _ran("-c", _EMPTY_APP, "--help"),
        "minted --help": _ran("-m", "minted_connect.cli", "--help"),
    }
    costs = interleave(contenders, calls=1, repetitions=max(3, effort.repetitions // 2))
    return compare("command line", costs, "an empty Typer app", goals={"minted --help": "<= 1.30 x wall"})


def sandbox(effort: Effort) -> list[Row]:
    """Measure the CPU time of the sandbox per request."""
    with Served(MINIMAL) as minimal, Served(SANDBOX) as server, peers.Driver() as driver:
        contenders = {
            "minimal server": timed(driver.repeat(driver.open(peers.typed(minimal)), 16), cpu=minimal.cpu),
            "sandbox": timed(driver.repeat(driver.open(peers.in_sandbox(server)), 16), cpu=server.cpu),
        }
        costs = interleave(contenders, calls=effort.calls // 16 * 16, repetitions=effort.repetitions)
    notes = {
        what: f"{1 / median([cost.cpu for cost in row]):.0f} signed GETs/s on one core" for what, row in costs.items()
    }
    return compare("sandbox, 16 at once, server's CPU", costs, "minimal server", notes=notes)


def purchases(effort: Effort) -> list[Row]:
    """Compare the journals by the purchases that a process makes per second."""
    with Served(SANDBOX) as server, buying.journals() as journals:
        latency = buying.fsync_latency()
        found = buying.measure(server, journals, max(2, effort.repetitions // 5))
    costs = {what: row.costs for what, row in found.items()}
    memory = found[buying.MEMORY]
    notes = {what: row.note(None if row is memory else memory) for what, row in found.items()}
    case = f"purchases, {buying.AT_ONCE} at once, fsync {latency * 1e3:.2f} ms"
    goals = {"SQLite journal": "<= 1.33 x wall, p99 <= 2 x", "PostgreSQL journal": "<= 1.67 x wall, p99 <= 2 x"}
    return compare(case, costs, buying.MEMORY, goals=goals, notes=notes)


def _steps(step: Callable[[], object]) -> Measure:
    def run(calls: int) -> None:
        for _ in repeat(None, calls):
            step()

    return timed(run)


def _awaited(step: Callable[[], Coroutine[Any, Any, object]]) -> Measure:
    """Measure a coroutine function that never waits, without an event loop."""

    def run(calls: int) -> None:
        for _ in repeat(None, calls):
            try:
                step().send(None)
            except StopIteration:
                continue
            raise RuntimeError("the coroutine waited")

    return timed(run)


def _imported(statement: str) -> Measure:
    script = (
        "import time; wall, cpu = time.perf_counter(), time.process_time()\n"
        f"{statement}\n"
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )

    def measure(_: int) -> Cost:
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        return Cost(*map(float, done.stdout.split()))

    return measure


def _ran(*words: str) -> Measure:
    def measure(_: int) -> Cost:
        before, started = os.times(), time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return Cost(time.perf_counter() - started, cpu)

    return measure


def fan_out(effort: Effort) -> list[Row]:
    """Compare ways to deliver prices to many subscribers.

    A call is an interval of one second; its wall time is the delay until the last subscriber has received its tick.
    """
    rows: list[Row] = []
    for number, contenders in fanout.CONTENDERS.items():
        costs: dict[str, list[Cost]] = {}
        notes: dict[str, str] = {}
        with Served(SANDBOX) as server:
            for what, run in contenders.items():
                costs[what], delays = fanout.measure(run, server, number, effort.intervals)
                notes[what] = f"p50 {delays.p50 * 1e3:.1f} ms, p99 {delays.p99 * 1e3:.1f} ms of all deliveries"
        shortest = min(map(len, costs.values()))
        costs = {what: row[:shortest] for what, row in costs.items()}
        goals = {fanout.FEED: "<= 10 ms, <= 20 ms CPU, 1 request"} if number == 1000 else {}
        rows += compare(f"prices for {number:,}", costs, fanout.FEED, goals=goals, notes=notes)
    return rows


CASES: Final[Mapping[str, Callable[[Effort], list[Row]]]] = {
    "sequential": sequential,
    "concurrent": concurrent,
    "changes": changes,
    "burst": burst,
    "first": first_call,
    "blocking": blocking,
    "growth": growth,
    "decode": decode,
    "encode": encode,
    "digest": digest,
    "retries": retries,
    "imports": imports,
    "start": start,
    "cli": command_line,
    "sandbox": sandbox,
    "purchases": purchases,
    "memory": memory,
    "fanout": fan_out,
}
