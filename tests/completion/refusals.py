"""Every response that refuses a completion, with the order made or not, and reads that are behind or not.

`python -m tests.completion.refusals` prints what both clients report in each case.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal

import anyio.to_thread
import attrs

from minted_connect import AsyncMintedConnect, MintedConnect, Options
from minted_connect.config import CompletionPolicy
from minted_connect.errors import APIError, CompletionRejected, MintedConnectError, NotExecuted, OutcomeUnknown
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.models import Basket, Completion, Intent, IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.chaos.stopping import FaultyJournal
from tests.conftest import Awaitably
from tests.support.clocks import WrongClock
from tests.support.operations import GOLD
from tests.support.rewriting_proxy import Made, Rewrite, RewritingProxy

__all__ = ["AT_ONCE", "ENDINGS", "LEFT_OUT", "REFUSALS", "Case", "Result", "Stage", "cases", "examine", "open_stage"]

Reads = Literal["fresh", "behind"]
Ending = Literal["inline", "inline_looks=0", "deadline", "cancelled", "killed"]

DELAY: Final = 5.0
STALENESS: Final = 7.0
BOUNDED: Final = CompletionPolicy(orders_lag=8.0, latest_landing=6.0)
UNBOUNDED: Final = CompletionPolicy()
"""The default: `orders_lag` alone covers delay and staleness."""
POLICIES: Final[Mapping[str, CompletionPolicy]] = {"latest_landing": BOUNDED, "orders_lag": UNBOUNDED}
DEADLINE: Final = 4.0
"""Seconds, less than every settle time here."""

_REALM: Final = 'realm="gateway"'
_CHALLENGES: Final = {
    "401 Basic": f"Basic {_REALM}",
    "401 Digest of another realm": f'Digest {_REALM}, nonce="other", qop="auth", algorithm=SHA-256',
    "401 Digest without nonce": 'Digest realm="Minted Connect", qop="auth", algorithm=SHA-256',
    "401 weaker Digest": 'Digest realm="Minted Connect", nonce="other", qop="auth", algorithm=MD5',
}


@attrs.frozen
class Response:
    """A response that refuses, without its body."""

    name: str
    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


_STATUSES: Final = (200, 400, 401, 402, 403, 404, 405, 409, 410, 413, 418, 422, 429, 451)
REFUSALS: Final = (
    *(Response(str(status) if status != 200 else "200 success:false", status) for status in _STATUSES),
    *(Response(name, 401, {"WWW-Authenticate": challenge}) for name, challenge in _CHALLENGES.items()),
    Response("429 Retry-After 3", 429, {"Retry-After": "3"}),
    Response("429 Retry-After 3600", 429, {"Retry-After": "3600"}),
)
"""Responses that are believed, if at all, after looking for the order."""
AT_ONCE: Final = tuple(
    Response(str(status), status, {"Location": "/elsewhere"} if status < 400 else {})
    for status in (301, 302, 303, 307, 308, 408, 425, 500, 502, 503, 504)
)
"""Responses after which the outcome is unknown at once."""
ENDINGS: Final[tuple[Ending, ...]] = ("inline_looks=0", "deadline", "cancelled", "killed")


@attrs.frozen(kw_only=True)
class Case:
    """One cell of the table."""

    response: Response
    form: Literal["enveloped", "bare"]
    made: Made
    reads: Reads
    policy: str = "latest_landing"
    trusts: bool = True
    """Whether the policy has its default `refusals`; otherwise none is trusted."""
    ending: Ending = "inline"
    clock_error: float = 0.0
    """Seconds that the gateway's clock is ahead of the server's."""
    wall_error: float = 0.0
    """Seconds that the wall clock of the machine that reconciles is ahead."""

    @property
    def label(self) -> str:
        """Name of the cell, without policy and ending."""
        made = {"before": "before", "after": f"{DELAY:g} s after", "never": "never"}[self.made]
        reads = f"{STALENESS:g} s behind" if self.reads == "behind" else "fresh"
        return f"{self.response.name} {self.form}, order {made}, reads {reads}"

    @property
    def completion_policy(self) -> CompletionPolicy:
        policy = POLICIES[self.policy]
        policy = policy if self.trusts else attrs.evolve(policy, refusals=frozenset())
        return attrs.evolve(policy, inline_looks=0.0) if self.ending == "inline_looks=0" else policy

    @property
    def left_out(self) -> str | None:
        """The reason why the default `refusals` decide this case wrongly, or None."""
        status = self.response.status
        is_trusted = self.trusts and self.form == "enveloped" and status in self.completion_policy.refusals
        if not is_trusted or self.made == "never":
            return None
        if self.reads == "behind":
            return "one look confirms a trusted refusal, and reads that are behind do not show the order in it"
        if self.made == "after" and self.completion_policy.latest_landing is None:
            return "one look confirms a trusted refusal, and without latest_landing it comes before the order"
        return None

    @property
    def rewrite(self) -> Rewrite:
        status, envelope = self.response.status, self.form == "enveloped"
        told = {"data": None, "success": False, "code": status, "message": "refused"}
        if not envelope and status == 200:
            del told["code"]
        is_json = envelope or status == 200
        return Rewrite(
            status=status,
            headers={"Content-Type": "application/json" if is_json else "text/html", **self.response.headers},
            body=json.dumps(told).encode() if is_json else b"<html><body>blocked</body></html>",
            made=self.made,
            delay=DELAY,
            staleness=STALENESS if self.reads == "behind" else 0.0,
            clock_error=self.clock_error,
        )


def cases(responses: Iterable[Response], **fixed: Any) -> Iterator[Case]:
    """Return every combination of form, order and reads for these responses."""
    forms, made, reads = ("enveloped", "bare"), ("before", "after", "never"), ("fresh", "behind")
    for response, *rest in itertools.product(responses, forms, made, reads):
        yield Case(**{"response": response, **dict(zip(("form", "made", "reads"), rest, strict=True)), **fixed})


LEFT_OUT: Final = tuple(
    case for policy in POLICIES for case in cases(REFUSALS, policy=policy) if case.left_out is not None
)
"""The only cells that the defaults do not decide rightly: without trusted refusals they do."""


@attrs.frozen
class Result:
    """What came of one case."""

    case: Case
    first: str
    """What the call reported."""
    later: str
    """What `reconcile` of a second client with the same journal reported; empty if nothing was pending."""
    orders: int
    """Orders of the basket in the end."""
    problems: tuple[str, ...]
    """What must not happen, and did."""


@attrs.define(eq=False)
class Stage:
    """A sandbox, the proxy in front of it, and the kind of client that buys."""

    flavour: str
    clock: ManualClock
    sandbox: Sandbox
    proxy: RewritingProxy
    clerk: AsyncMintedConnect
    """Fills baskets, past the proxy."""
    customers: int = 0

    async def basket(self) -> Basket:
        self.customers += 1
        name = f"customer-{self.customers}"
        await self.clerk.customers.create(name, firstname="Ada", lastname="Lovelace")
        return await self.clerk.baskets.add_item(name, sku=GOLD, qty=1)

    def orders(self, basket: Basket) -> list[int]:
        return [order.id for order in self.sandbox.shop.orders if order.token == basket.token]

    @asynccontextmanager
    async def client(
        self, policy: CompletionPolicy, journal: Journal, *, wall_error: float = 0.0
    ) -> AsyncIterator[Any]:
        terms: dict[str, Any] = {
            "base_url": self.proxy.url,
            "journal": journal,
            "options": Options(clock=WrongClock(self.clock, wall_error), completion=policy),
        }
        login = self.sandbox.username, self.sandbox.password
        if self.flavour == "async":
            async with AsyncMintedConnect(*login, **terms) as client:
                yield client
        else:
            blocking = MintedConnect(*login, **terms)
            try:
                yield Awaitably(blocking)
            finally:
                await anyio.to_thread.run_sync(blocking.close)


@asynccontextmanager
async def open_stage(flavour: str) -> AsyncIterator[Stage]:
    """Open a sandbox and a proxy on one clock, which every wait moves."""
    clock = ManualClock(auto_advance=True)
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(seed=1, clock=clock, single_shot=False))
        proxy = await stack.enter_async_context(RewritingProxy(sandbox.url, clock))
        clerk = await stack.enter_async_context(
            AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=Options(clock=clock))
        )
        yield Stage(flavour, clock, sandbox, proxy, clerk)


async def examine(stage: Stage, case: Case) -> Result:
    """Complete a basket as the case says, settle what stays open, and hold what was reported against the shop."""
    basket, journal, problems = await stage.basket(), MemoryJournal(), list[str]()
    stage.proxy.rewrites[basket.token] = case.rewrite
    first = await _buy(stage, case, basket, journal)
    problems += _problems_of(stage, case, basket, first)
    pending = await journal.pending()
    if isinstance(first, Completion) or _is_refusal(first):
        problems += ["settled, and still pending"] * len(pending)
    else:
        problems += _problems_of_pending(case, pending)
    later: Completion | BaseException | None = None
    if pending:
        # A second client, as another process: it knows the journal and nothing else.
        async with stage.client(case.completion_policy, journal, wall_error=case.wall_error) as client:
            later = await _end(client.complete.reconcile(pending[0]))
        problems += _problems_of(stage, case, basket, later)
    stage.clock.advance(100)
    await stage.proxy.execute_due()
    orders = stage.orders(basket)
    problems += _problems_at_the_end(case, orders, later or first, [one.state for one in await _intents(journal)])
    if (posts := stage.proxy.completions[basket.token]) != 1:
        problems.append(f"{posts} completions were sent")
    return Result(case, _described(first), "" if later is None else _described(later), len(orders), tuple(problems))


async def _buy(stage: Stage, case: Case, basket: Basket, journal: MemoryJournal) -> Completion | BaseException:
    journal_of_call = FaultyJournal(journal)
    async with stage.client(case.completion_policy, journal_of_call) as opened:
        client = opened.with_options(deadline=DEADLINE) if case.ending == "deadline" else opened
        task = asyncio.ensure_future(_end(client.complete.buy(basket, expected_total=basket.paid_total)))
        if case.ending in {"cancelled", "killed"}:

            def interrupt(read: int) -> None:
                # The first look is two reads or more; later looks are about the time that is left.
                if read == 4 and stage.proxy.completions[basket.token]:
                    journal_of_call.is_killed = case.ending == "killed"
                    task.cancel()

            stage.proxy.on_read = interrupt
        try:
            return await task
        finally:
            stage.proxy.on_read = None


async def _end(call: Awaitable[Completion]) -> Completion | BaseException:
    try:
        return await call
    except (MintedConnectError, asyncio.CancelledError) as error:
        return error


def _is_refusal(end: Completion | BaseException | None) -> bool:
    """Return whether a caller was told that nothing was bought."""
    if isinstance(end, CompletionRejected):
        return end.order is None
    return isinstance(end, APIError | NotExecuted)


def _problems_of(stage: Stage, case: Case, basket: Basket, end: Completion | BaseException) -> list[str]:
    """Return what is wrong with a report, at the moment in which it is made."""
    if _is_refusal(end) and case.made != "never":
        return [f"believed too early: {_described(end)}"]
    if isinstance(end, Completion):
        orders = stage.orders(basket)
        return [] if end.order is not None and end.order.id in orders else ["confirmed without an order"]
    expected = isinstance(end, APIError | CompletionRejected | NotExecuted | OutcomeUnknown | asyncio.CancelledError)
    return [] if expected else [f"reported {end!r}"]


def _problems_of_pending(case: Case, pending: list[Intent]) -> list[str]:
    if len(pending) != 1:
        return [f"{len(pending)} intents are pending"]
    [intent] = pending
    if intent.state != IntentState.UNKNOWN:
        return [f"the intent is {intent.state}"]
    if case.response in AT_ONCE:
        return []
    if intent.refusal is None:
        return ["the journal does not hold the refusal"]
    seen, expected = (intent.refusal.status, intent.refusal.is_vendor_response), case.form == "enveloped"
    # The body of a 401 is not looked into where its challenge is refused.
    if seen[0] != case.response.status or (seen[1] != expected and case.response.status != 401):
        return [f"the journal holds the refusal {seen}"]
    return []


def _problems_at_the_end(
    case: Case, orders: list[int], end: Completion | BaseException, states: list[IntentState | str]
) -> list[str]:
    problems: list[str] = []
    if len(orders) != (case.made != "never"):
        problems.append(f"the shop holds the orders {orders}")
    if orders and not (isinstance(end, Completion) and states == [IntentState.CONFIRMED]):
        problems.append(f"the order was not found: {_described(end)}, {states}")
    if not orders and case.response not in AT_ONCE and not (_is_refusal(end) and states == [IntentState.REJECTED]):
        problems.append(f"it does not end as a refusal: {_described(end)}, {states}")
    return problems


async def _intents(journal: MemoryJournal) -> list[Intent]:
    return [*journal._closed.values(), *journal._open.values()]


def _described(end: Completion | BaseException | None) -> str:
    match end:
        case Completion():
            return "confirmed"
        case OutcomeUnknown():
            return "unknown"
        case asyncio.CancelledError():
            return "cancelled"
        case _ if _is_refusal(end):
            return f"refused ({type(end).__name__})"
        case _:
            return repr(end)


def table() -> list[tuple[str, list[Case]]]:
    """Return the sections of the table: their titles, and the cells in them."""
    return [
        ("believed after looking", [case for policy in POLICIES for case in cases(REFUSALS, policy=policy)]),
        ("unknown at once", list(cases(AT_ONCE))),
        ("left out above, with refusals=frozenset()", [attrs.evolve(case, trusts=False) for case in LEFT_OUT]),
    ]


async def render(flavours: Iterable[str] = ("async", "blocking")) -> AsyncIterator[str]:
    """Run the table with these clients, and return its rows and counts."""
    for flavour in flavours:
        async with open_stage(flavour) as stage:
            for title, section in table():
                yield f"\n{flavour} client: {title}"
                counts: Counter[str] = Counter()
                for case in section:
                    result = await examine(stage, case)
                    left_out = case.left_out
                    verdict = "left out" if left_out else "WRONG" if result.problems else "right"
                    counts[verdict] += 1
                    ends = " -> ".join(filter(None, (result.first, result.later)))
                    why = f" ({left_out})" if left_out else "".join(f" ({problem})" for problem in result.problems)
                    yield f"{case.label:<76}{case.policy:<16}{ends:<48}{verdict}{why}"
                yield ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


async def main() -> int:
    logging.getLogger("minted_connect").setLevel(logging.CRITICAL)
    wrong = 0
    async for row in render():
        wrong += " WRONG" in row
        sys.stdout.write(f"{row}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
